//! SSH to hosts: one session with a known host key, and what runs over it.
