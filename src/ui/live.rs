//! A text that is drawn again in place while it changes.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Style, Ui, safe};
use crate::terminal::Size;

/// Shown on a terminal only, and gone without a trace when it is dropped: the answer itself is printed afterwards.
#[derive(Debug)]
pub(crate) struct Live {
    bar: Option<ProgressBar>,
}

impl Live {
    pub(super) fn new(ui: &Ui) -> Self {
        let bar = (ui.style == Style::Terminal).then(|| ui.bars.add(ProgressBar::new_spinner()));
        if let (Some(bar), Ok(style)) = (&bar, ProgressStyle::with_template("{msg}")) {
            bar.set_style(style);
            // A drawing that came too soon after another one is made up for.
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { bar }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_seen(&self) -> bool {
        self.bar.is_some()
    }

    /// Draws what `text` makes of the number of lines that there is room for. Lines are cut where the terminal ends.
    pub(crate) fn draw(&self, text: impl FnOnce(usize) -> String) {
        let Some(bar) = &self.bar else { return };
        let Size { columns, rows } = Size::of_standard_error();
        let cut = |line: &str| line.chars().take(usize::from(columns.saturating_sub(1))).collect::<String>();
        let text: Vec<String> = text(rows.saturating_sub(1).into()).lines().map(cut).collect();
        bar.set_message(safe::printable(&text.join("\n")).into_owned());
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
