"""The kit proves itself: its references, its defects, and the laws that they obey."""
