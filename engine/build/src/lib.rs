//! Builds images from Dockerfiles.
//!
//! ```text
//! text ─ source ─ instruction ─ dockerfile ─┐
//! archive ─ unpack ─ ignore ────────────────┴─ plan ─ builder ─┬─ stage ─ words, RUN, COPY ─┬─ looked up ─▶ image
//!                                                              └─ stage …                   └─ done, kept ─▶ image
//! ```
//!
//! It knows no HTTP, and neither the image store nor the containers: whoever puts the engine together hands them to it.

mod address;
mod brought;
mod builder;
mod config;
mod copy;
mod copying;
mod dockerfile;
mod download;
mod error;
mod flags;
mod folder;
#[cfg(test)]
mod fuzz;
mod git;
mod instruction;
mod known;
mod lent;
mod mounted;
mod named;
mod needed;
mod outside;
mod plan;
mod reach;
mod remote;
mod run;
mod running;
mod scope;
mod select;
mod shop;
mod source;
mod stage;
mod title;
mod triggers;
mod unpack;
mod voice;
mod words;
mod work;

pub use address::is_elsewhere;
pub use builder::Builder;
pub use config::change;
pub use dockerfile::Dockerfile;
use engine_patterns::{glob, ignore};
pub use error::BuildError;
pub use outside::{Arriving, Audience, Client, Event, Keys, Login, Outside, StepId, Told, Validators};
pub use plan::{Context, Named, Plan, Request, Texts, Wanted};
pub use remote::Elsewhere;
pub use run::LABEL;
pub use source::ParseError;
