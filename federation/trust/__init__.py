"""Who is who, and what was said: keys, fingerprints, roster, signed envelopes, and the log that nobody can rewrite."""
