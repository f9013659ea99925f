//! Plays PowerShell on a machine with Hyper-V: it runs the scripts that it is given, statement by statement, on a machine
//! that is a file beside the name that it is called by.

mod cmdlets;
mod dotnet;
mod interpreter;
mod table;
mod value;
mod world;

use std::{
    env,
    error::Error,
    ffi::OsString,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use interpreter::{Flow, Interpreter};
use world::World;

/// What the driver has to say before the script, for both versions of PowerShell.
const SWITCHES: [&str; 7] =
    ["-NoLogo", "-NoProfile", "-NonInteractive", "-InputFormat", "Text", "-OutputFormat", "Text"];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "stand-in: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os();
    let own = arguments.next().map(PathBuf::from).unwrap_or_default();
    let world = World::at(own.parent().ok_or("It has no folder")?.to_owned());
    let script = script(&arguments.collect::<Vec<_>>())?;
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    if !input.is_ascii() {
        return Err(
            "What comes in is not ASCII, and Windows PowerShell would read it in the console's code page"
                .into(),
        );
    }
    let faults = world.change(|facts| {
        facts.runs += 1;
        facts.faults.clone()
    });
    thread::sleep(Duration::from_millis(faults.slow));
    let mut output = std::io::stdout();
    match faults.says.as_deref() {
        None => {}
        Some("garbage") => return Ok(writeln!(output, "WARNUNG: \u{1b}[31mkein JSON")?),
        Some("nothing") => return Ok(()),
        Some("complaint") => return Err("Die Datei wurde nicht gefunden".into()),
        Some("huge") => {
            let piece = [b' '; 1 << 12];
            // Until nobody listens any more.
            while output.write_all(&piece).is_ok() {}
            return Ok(());
        }
        Some(other) => return Err(format!("nobody says `{other}`").into()),
    }
    let mut parser = tree_sitter::Parser::new();
    parser.set_language(&tree_sitter_powershell::LANGUAGE.into())?;
    let tree = parser.parse(&script, None).ok_or("The script was not parsed")?;
    if tree.root_node().has_error() {
        return Err("The script is not in PowerShell's grammar".into());
    }
    let mut interpreter = Interpreter::new(&script, world, input);
    match interpreter.run(tree.root_node()) {
        Ok(output) if output.is_empty() => Ok(()),
        Ok(output) => Err(format!("The script leaves something behind: {output:?}").into()),
        Err(Flow::Exit) => Ok(()),
        Err(Flow::Return) => Err("A `return` outside of a function".into()),
        Err(Flow::Throw(failure)) => Err(format!("Nobody caught {failure:?}").into()),
        Err(Flow::Unknown(what)) => Err(format!("This is not known here: {what}").into()),
    }
}

/// The script among the arguments, which have to be the expected ones.
fn script(arguments: &[OsString]) -> Result<String, Box<dyn Error>> {
    let words: Vec<&str> = arguments.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let Some(["-EncodedCommand", encoded]) = words.strip_prefix(&SWITCHES[..]) else {
        return Err(format!("These are not the arguments that PowerShell is to have: {words:?}").into());
    };
    let bytes = STANDARD.decode(encoded)?;
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    Ok(String::from_utf16(&units)?)
}
