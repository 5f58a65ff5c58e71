"""The probe, and the readers of its answer, one per part. Pure but for what sends it."""
