//! Where a driver says what it is doing.

/// Receives what a driver says while it works. Nothing here fails.
pub trait Progress: Send + Sync {
    /// The step that begins now, such as `Creating the disk`.
    fn step(&self, text: &str);

    /// How much of the step is done, where that can be counted: bytes of all bytes, as a rule. Said often, and only
    /// shown where it can be drawn anew.
    fn amount(&self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// Something that the user should know and that is no failure.
    fn note(&self, text: &str);
}

/// Says nothing to anybody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}

    fn note(&self, _: &str) {}
}
