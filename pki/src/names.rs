//! Turns what users write into subject alternative names.
