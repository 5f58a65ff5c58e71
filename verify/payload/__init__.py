"""What runs on a host, on Python 3.10: each prints one line of JSON, measures, and never judges."""
