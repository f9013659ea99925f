//! How a stage tells what becomes of it: in lines, to who reads, or step by step, to who watches.

use tokio::sync::mpsc;

use super::error::BuildError;
use super::outside::{Audience, Event, StepId, Told};

/// The voice of one stage.
#[derive(Debug)]
pub(crate) struct Voice {
    audience: Audience,
    /// The step that is under way, for who watches.
    at: Option<StepId>,
    line: usize,
    last_line: usize,
    is_cached: bool,
}

/// A step, for who watches.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    pub(crate) id: StepId,
    /// Not every step is worth being watched.
    pub(crate) title: Option<String>,
    pub(crate) lines: (usize, usize),
}

impl Voice {
    pub(crate) fn new(audience: Audience) -> Self {
        Self { audience, at: None, line: 0, last_line: 0, is_cached: false }
    }

    /// That of another stage, told to the same.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.audience.clone())
    }

    /// A line for who reads.
    pub(crate) async fn say(&self, text: String) -> Result<(), BuildError> {
        match &self.audience {
            Audience::Reader(told) => told.send(Told::Text(text)).await.map_err(|_| BuildError::Cancelled),
            Audience::Watcher(events) if events.is_closed() => Err(BuildError::Cancelled),
            Audience::Watcher(_) => Ok(()),
        }
    }

    /// What a command writes, or a pull tells.
    pub(crate) async fn pass_on(&self, said: Told) -> Result<(), BuildError> {
        match &self.audience {
            Audience::Reader(told) => told.send(said).await.map_err(|_| BuildError::Cancelled),
            Audience::Watcher(events) => {
                let Some(step) = self.at else { return Ok(()) };
                events.send(Event::Said { step, said }).await.map_err(|_| BuildError::Cancelled)
            }
        }
    }

    /// Where a pull tells how it goes on, and what passes that on.
    pub(crate) fn lines(&self) -> (mpsc::Sender<Told>, impl Future<Output = ()> + '_) {
        let (sender, mut receiver) = mpsc::channel(64);
        let pass_on = async move {
            while let Some(said) = receiver.recv().await {
                // A client that is gone is noticed elsewhere.
                let _ = self.pass_on(said).await;
            }
        };
        (sender, pass_on)
    }

    async fn tell(&self, event: Event) {
        if let Audience::Watcher(events) = &self.audience {
            // A client that is gone is noticed elsewhere.
            let _ = events.send(event).await;
        }
    }

    /// A step begins.
    pub(crate) async fn begin(&mut self, announced: Announced) {
        (self.line, self.last_line) = announced.lines;
        self.is_cached = false;
        self.at = None;
        if let Some(title) = announced.title {
            self.at = Some(announced.id);
            self.tell(Event::Began { step: announced.id, title }).await;
        }
    }

    /// Its result was there already.
    pub(crate) fn cached(&mut self) {
        self.is_cached = true;
    }

    /// It is done.
    pub(crate) async fn end(&mut self) {
        if let Some(step) = self.at.take() {
            self.tell(Event::Ended { step, is_cached: self.is_cached }).await;
        }
    }

    /// It failed, and the stage with it.
    pub(crate) async fn fail(&mut self, error: &BuildError) {
        if matches!(error, BuildError::Cancelled) {
            return;
        }
        let (step, lines) = (self.at.take(), (self.line, self.last_line));
        self.tell(Event::Failed { step, lines, error: error.clone() }).await;
    }

    /// For who reads, a stage has become an image.
    pub(crate) async fn image(&self, said: Told) {
        if let Audience::Reader(told) = &self.audience {
            let _ = told.send(said).await;
        }
    }
}
