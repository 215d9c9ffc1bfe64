"""Weakly labelled audio: AudioSet's files, clips and batches, and mixing a corpus of one's own."""
