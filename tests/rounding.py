"""What rounding may do to float32, and the tolerances that several tests share.

One float32 operation is off by up to U of its result. A sum of n terms in another order (other instructions, threads,
shapes of products) is off by up to n U of the sum of their magnitudes, and by sqrt(n) U as a rule; what is made of m
such sums is off by sqrt(m) times as much. Every CPU has its own order. So a tolerance here is some four to ten times
what the rule gives, and far below what a mistake does, 1e-3 and more.
"""

U = 2.0**-24

LOGITS = 2e-5
"""Of the largest logit of a tiny model: some 50 products of up to 128 terms make 5e-6."""

LOSS = 1e-5
"""Of a loss, a mean over some hundred tokens: 1e-6. A difference of two losses has the errors of both."""

GRADIENT = 1e-4
"""Of a tensor's largest gradient: three times a forward pass, and sums over all tokens, whose terms cancel: 2e-5."""
