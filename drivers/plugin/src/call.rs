//! One call: the request, what the program says meanwhile, and its result.

use std::{path::PathBuf, time::Duration};

use machine_driver::{Description, DriverError, ErrorKind, Journal, Progress};
use serde_json::{Value, json};

use crate::{
    check::{self, shown},
    process::{NoLine, Program},
    wire::{JournalView, Line, Request, Written},
};

/// Most writes of the journal in one call, and most entries: a host consists of a few things.
const WRITES: usize = 1000;

/// Most lines that are told to the user in one call; the rest is for nobody.
const TOLD: usize = 10_000;

/// The program of a driver, and how long it may be silent.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// What the user calls the driver.
    pub(crate) driver: String,
    pub(crate) path: PathBuf,
}

/// A call that goes on.
pub(crate) struct Conversation<'a> {
    caller: &'a Caller,
    call: &'a str,
    program: Program,
    patience: Patience,
    writes: usize,
}

/// How long a program is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// So long in all: a question.
    InAll(Duration),
    /// So long without a word: work, in which nobody can say what was done when it breaks off.
    Silence(Duration),
}

/// What a program says that is not the end.
pub(crate) enum Event {
    Row(usize, Result<Description, DriverError>),
    Result(Value),
}

impl Caller {
    fn broken(&self, call: &str, what: impl std::fmt::Display) -> DriverError {
        DriverError::failed(format!(
            "The driver {} does not keep to its contract: `{call}`: {what}",
            self.driver
        ))
        .with_hint(format!("Its program is `{}`; its author can mend it", self.path.display()))
    }

    /// Starts the program and asks.
    pub(crate) async fn ask<'a>(
        &'a self,
        call: &'a str,
        arguments: Value,
        patience: Patience,
    ) -> Result<Conversation<'a>, DriverError> {
        let mut program = Program::start(&self.path).map_err(|error| {
            DriverError::refused(format!("Could not run the driver's program `{}`", self.path.display()))
                .with_source(error)
        })?;
        let request = serde_json::to_string(&Request::new(call, arguments))
            .map_err(|error| self.broken(call, "the request is no JSON").with_source(error))?;
        let (Patience::InAll(limit) | Patience::Silence(limit)) = patience;
        program.write(&request, limit).await;
        Ok(Conversation { caller: self, call, program, patience, writes: 0 })
    }

    /// A call that neither writes the journal nor says how far it is.
    pub(crate) async fn question(
        &self,
        call: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, DriverError> {
        let asked = async {
            let mut conversation = self.ask(call, arguments, Patience::InAll(limit)).await?;
            match conversation.next(None, None).await? {
                Event::Result(value) => {
                    conversation.program.end().await;
                    Ok(value)
                }
                Event::Row(..) => Err(self.broken(call, "a row was not asked for")),
            }
        };
        // Words without an answer do not make it longer.
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(self.silent(call, limit)),
        }
    }

    fn silent(&self, call: &str, limit: Duration) -> DriverError {
        DriverError::unknown(format!(
            "The driver {} did not answer `{call}` within {} seconds",
            self.driver,
            limit.as_secs_f64().ceil()
        ))
        .with_hint("Run the same command again to go on")
    }

    /// A call that works on a host.
    pub(crate) async fn work(
        &self,
        call: &str,
        mut arguments: Value,
        silence: Duration,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        arguments["journal"] = json!(JournalView { entries: journal.entries(), state: journal.state() });
        let mut conversation = self.ask(call, arguments, Patience::Silence(silence)).await?;
        match conversation.next(Some(journal), Some(progress)).await? {
            Event::Result(_) => {
                conversation.program.end().await;
                Ok(())
            }
            Event::Row(..) => Err(self.broken(call, "a row was not asked for")),
        }
    }
}

impl Conversation<'_> {
    fn broken(&self, what: impl std::fmt::Display) -> DriverError {
        let broken = self.caller.broken(self.call, what);
        match self.patience {
            Patience::InAll(_) => broken,
            // What it was doing may have been done.
            Patience::Silence(_) => DriverError::unknown(broken.to_string())
                .with_hint(broken.hint().unwrap_or_default().to_owned()),
        }
    }

    fn limit(&self) -> Duration {
        let (Patience::InAll(limit) | Patience::Silence(limit)) = self.patience;
        limit
    }

    /// The next thing that the caller has to know of. What is written to the journal is on disk before the program
    /// goes on.
    pub(crate) async fn next(
        &mut self,
        mut journal: Option<&mut dyn Journal>,
        progress: Option<&dyn Progress>,
    ) -> Result<Event, DriverError> {
        let mut told = 0;
        loop {
            let line = self.line().await?;
            match line {
                Line::Step(_) | Line::Note(_) if told >= TOLD => {}
                Line::Step(text) => {
                    told += 1;
                    progress.inspect(|progress| progress.step(&check::text(&text)));
                }
                Line::Note(text) => {
                    told += 1;
                    progress.inspect(|progress| progress.note(&check::text(&text)));
                }
                Line::Row(row) => {
                    let host = row.host;
                    let description = row.description().ok_or_else(|| self.broken("a row says nothing"))?;
                    let checked = match description {
                        Ok(found) => match check::description(&found) {
                            Ok(()) => Ok(found),
                            Err(what) => Err(self.broken(what)),
                        },
                        Err(error) => Err(check::error(&error)),
                    };
                    return Ok(Event::Row(host, checked));
                }
                Line::Result(value) => return Ok(Event::Result(value)),
                Line::Error(error) => return Err(check::error(&error)),
                write => {
                    let Some(journal) = journal.as_deref_mut() else {
                        return Err(self.broken("this call writes no journal"));
                    };
                    self.writes += 1;
                    if self.writes > WRITES || journal.entries().len() > WRITES {
                        return Err(self.broken("it writes the journal without end"));
                    }
                    self.write(write, journal).await?;
                    let written = json!(Written { written: true }).to_string();
                    self.program.write(&written, self.limit()).await;
                }
            }
        }
    }

    async fn write(&self, line: Line, journal: &mut dyn Journal) -> Result<(), DriverError> {
        let broken = |what: String| self.broken(what);
        match line {
            Line::Intend { kind, name, place } => {
                check::name("the kind of a resource", &kind).map_err(broken)?;
                check::name("the name of a resource", &name).map_err(broken)?;
                if let Some(place) = &place {
                    check::name("the place of a resource", place).map_err(broken)?;
                }
                journal.intend(&kind, &name, place.as_deref()).await?;
            }
            Line::Made { kind, name, id, state } => {
                check::name("the kind of a resource", &kind).map_err(broken)?;
                check::name("the name of a resource", &name).map_err(broken)?;
                if let Some(id) = &id {
                    check::name("the id of a resource", id).map_err(broken)?;
                }
                check::state(&state).map_err(broken)?;
                journal.made(&kind, &name, id.as_deref(), state).await?;
            }
            Line::Gone { kind, name } => journal.gone(&kind, &name).await?,
            Line::SetState(state) => {
                check::state(&state).map_err(broken)?;
                journal.set_state(state).await?;
            }
            // The caller has seen to the others.
            Line::Step(_) | Line::Note(_) | Line::Row(_) | Line::Result(_) | Line::Error(_) => {}
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<Line, DriverError> {
        let call = self.call;
        match self.program.line(self.limit()).await {
            Ok(line) => serde_json::from_slice(&line).map_err(|error| {
                let start = shown(&String::from_utf8_lossy(&line));
                // Where in the line, and not what is there: that is shown already, made harmless.
                let place = format!("it is not understood at column {}", error.column());
                self.broken(format!("a line begins `{start}`")).with_source(place)
            }),
            Err(NoLine::TooLong) => Err(self.broken("a line is longer than 1 MiB")),
            Err(NoLine::TooMuch) => Err(self.broken("it talks without end")),
            Err(NoLine::Failed(error)) => Err(self.broken("its output cannot be read").with_source(error)),
            Err(NoLine::Silent(limit)) => Err(self.caller.silent(call, limit)),
            Err(NoLine::Ended) => {
                let error = DriverError::new(
                    ErrorKind::Unknown,
                    format!("The driver {} ended in the middle of `{call}`", self.caller.driver),
                )
                .with_hint("Run the same command again to go on");
                Err(match self.program.last_words().await {
                    Some(words) => error.with_source(words),
                    None => error,
                })
            }
        }
    }

    /// Lets the program end.
    pub(crate) async fn end(self) {
        self.program.end().await;
    }
}
