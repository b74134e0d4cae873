"""Patient-level differential privacy: sampling, clipping, noise and accounting, joined in mechanism.py; the ledger."""
