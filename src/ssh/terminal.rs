//! The terminal that we run in: its size, its raw mode, and questions on it.
