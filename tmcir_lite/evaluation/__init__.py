"""Ranks, recall and intent under each protocol; the files for the test servers. A further metric belongs here."""
