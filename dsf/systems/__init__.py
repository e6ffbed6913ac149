"""The system and its parts: transitions, coefficients, sums, solvers, compiled loops, algebra."""
