"""Draw, score, accept: from a pilot to the accepted rows."""
