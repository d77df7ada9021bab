"""How a service lives: signals, the grace period, exit codes, health, metrics, logs, and options from settings.

A service package declares one `Service` and needs `runtime.service` and `runtime.settings` alone; the rest is found
from there. Imports no transport, detector or store.
"""
