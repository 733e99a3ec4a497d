"""Results that travel: packed for others, merged from others, judged before they are published. Needs no torch."""
