"""The sink service: a stream of anomalies to objects, one a minute, each anomaly in exactly one."""
