//! How much of a copy has been done, on a terminal; nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Style, Ui, safe};

/// Bytes that go from one place to another. Gone when it is dropped.
#[derive(Debug)]
pub struct Transfer {
    bar: ProgressBar,
}

impl Transfer {
    pub(super) fn new(ui: &Ui) -> Self {
        if ui.style != Style::Terminal {
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = ui.bars.add(ProgressBar::new(0));
        let template = "{spinner} {wide_msg} {bytes} of {total_bytes}  {bytes_per_sec}  {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar }
    }

    /// Another file begins, of so many bytes as far as that is known.
    pub fn begin(&self, name: &str, size: u64) {
        self.bar.inc_length(size);
        self.bar.set_message(safe::one_line(name).into_owned());
    }

    /// So many bytes more have arrived.
    pub fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
