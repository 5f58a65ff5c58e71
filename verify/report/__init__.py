"""What a verify run found, for people and machines: terminal, JSON, one HTML page.

Everything is rendered from a run directory, so that any run can be shown again.
"""
