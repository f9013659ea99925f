//! Drivers that are programs of their own: `machine-driver-NAME` on the PATH.
//!
//! The program is started anew for each call of the [`machine_driver::Driver`] contract and speaks JSON, one object a
//! line. Its standard input begins with the request; what it writes to standard output is told to the user, written to
//! the host's journal, or ends the call:
//!
//! | line | from | means |
//! |---|---|---|
//! | `{"contract": 2, "call": "create", …}` | us | the request, with the arguments of the call beside it |
//! | `{"step": "Creating the disk"}`, `{"note": "…"}` | the program | progress |
//! | `{"intend": {"kind": "disk", "name": "d", "place": null}}` | the program | about to be made |
//! | `{"made": {"kind": "disk", "name": "d", "id": "7", "state": …}}` | the program | exists now, with the new state |
//! | `{"gone": {"kind": "disk", "name": "d"}}`, `{"set_state": …}` | the program | the journal's other writes |
//! | `{"written": true}` | us | the answer to each of the four: it is on disk, go on |
//! | `{"row": {"host": 0, "state": "Running", "endpoint": …}}` | the program | one host of `describe_many`; `error` instead of the others |
//! | `{"result": …}` | the program | the end; what the call returns |
//! | `{"error": {"kind": "refused", "message": "…", "hint": "…", "causes": ["…"]}}` | the program | the end; it failed |
//!
//! The calls and what they return are those of the trait, the arguments have the names that they have there (`host`,
//! `state`, `config`, `options`, `rules`, `hosts`, `lines`, `leftovers`); calls that write the journal are given it as
//! `journal: {"entries": […], "state": …}`. `hello` returns `{"contract": 2, "info": …, "flags": […], "scope_flags":
//! […]}`. A call that the program does not know it answers with the kind `unsupported`. `resources` is asked by the
//! conformance suite alone.
//!
//! The end of its standard input means that nobody listens any more: a program that finds it stops where it is, as if it
//! had been killed. What it started lives on after a result, and is ended with it after a failure.
//!
//! Nothing that the program says is believed before it is checked: lines and texts are bounded, control
//! characters never get through, and a program that is silent, talks without end or dies is ended with everything that
//! it started. Its standard error goes into the failure, the last lines of it.

mod call;
mod check;
mod driver;
mod find;
mod process;
mod wire;

pub use driver::{Limits, PlugIn};
pub use find::{find, installed};
