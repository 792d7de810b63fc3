//! Dependencies: order, cycles, who waits for whom. Knows nothing of time.
