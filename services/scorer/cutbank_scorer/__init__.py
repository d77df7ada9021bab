"""The scorer service: trades in, anomalies and errors out."""
