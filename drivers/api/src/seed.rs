//! The NoCloud seed: a small image that configures a host at its first boot.
