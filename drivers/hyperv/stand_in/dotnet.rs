//! The classes of .NET that scripts use.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::Write as _,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    interpreter::{Flow, Interpreter, Outcome, unknown},
    value::Value,
};

/// Members of classes.
pub(crate) fn constant(class: &str, name: &str) -> Outcome<Value> {
    match (class, name) {
        ("[System.Text.Encoding]", "UTF8") => Ok(Value::object("UTF8Encoding", Vec::new())),
        _ => unknown(format!("{class}::{name}")),
    }
}

/// Methods of classes.
pub(crate) fn static_call(
    _: &mut Interpreter<'_>,
    class: &str,
    method: &str,
    arguments: &[Value],
) -> Outcome<Value> {
    match (class, method, arguments) {
        ("[System.Console]", "OpenStandardOutput", []) => Ok(Value::object("Stream", Vec::new())),
        ("[System.Diagnostics.Stopwatch]", "StartNew", []) => Ok(Value::Clock(Instant::now())),
        ("[System.Security.Principal.WindowsIdentity]", "GetCurrent", []) => {
            Ok(Value::object("WindowsIdentity", Vec::new()))
        }
        _ => unknown(format!("{class}::{method}")),
    }
}

/// Methods of objects.
pub(crate) fn call(
    interpreter: &mut Interpreter<'_>,
    of: &Value,
    method: &str,
    arguments: &[Value],
) -> Outcome<Value> {
    let class = match of {
        Value::Object(object) => object.class,
        Value::Text(_) => "String",
        Value::Mutex(_) => "Mutex",
        Value::Null => return unknown(format!("`{method}` of nothing, which PowerShell refuses")),
        _ => "",
    };
    match (class, method, arguments) {
        ("UTF8Encoding", "GetBytes", [text]) => Ok(Value::Bytes(Rc::new(text.to_text().into_bytes()))),
        ("Stream", "Write", [Value::Bytes(bytes), Value::Integer(0), Value::Integer(_)]) => {
            // Whoever has gone away does not want to know.
            let _ = std::io::stdout().write_all(bytes);
            Ok(Value::Null)
        }
        ("Stream", "Flush", []) => {
            let _ = std::io::stdout().flush();
            Ok(Value::Null)
        }
        ("String", "Replace", [from, to]) => {
            Ok(Value::Text(of.to_text().replace(&from.to_text(), &to.to_text())))
        }
        ("String", "StartsWith", [beginning, Value::Text(how)]) if how == "OrdinalIgnoreCase" => {
            let (whole, beginning) = (of.to_text().to_lowercase(), beginning.to_text().to_lowercase());
            Ok(Value::Bool(whole.starts_with(&beginning)))
        }
        ("WindowsPrincipal", "IsInRole", [Value::Object(sid)]) if sid.class == "SecurityIdentifier" => {
            let sid = sid.field("Value").map(Value::to_text);
            Ok(Value::Bool(interpreter.world.facts().groups.iter().any(|group| Some(group) == sid.as_ref())))
        }
        ("Mutex", "WaitOne", [Value::Integer(milliseconds)]) => {
            let Value::Mutex(file) = of else { return unknown("a mutex without a file") };
            wait(file, *milliseconds).map(Value::Bool)
        }
        _ => unknown(format!("the method `{method}` of {of:?} with {arguments:?}")),
    }
}

/// What `New-Object` makes.
pub(crate) fn make(interpreter: &mut Interpreter<'_>, class: &str, arguments: &[Value]) -> Outcome<Value> {
    match (class, arguments) {
        ("System.Security.Principal.WindowsPrincipal", [Value::Object(user)])
            if user.class == "WindowsIdentity" =>
        {
            Ok(Value::object("WindowsPrincipal", Vec::new()))
        }
        ("System.Security.Principal.SecurityIdentifier", [sid]) => {
            Ok(Value::object("SecurityIdentifier", vec![("Value", sid.clone())]))
        }
        ("System.Threading.Mutex", [Value::Bool(false), Value::Text(name)]) => {
            let Some(name) = name.strip_prefix("Global\\") else {
                return unknown("a mutex that is not for everybody");
            };
            let name: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            let path = interpreter.world.folder().join(format!("mutex-{name}"));
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
            file.map(|file| Value::Mutex(Rc::new(file))).map_err(|error| Flow::Unknown(error.to_string()))
        }
        _ => unknown(format!("an object of the class {class}")),
    }
}

/// The lock goes with the process, as a mutex does.
fn wait(file: &File, milliseconds: i64) -> Outcome<bool> {
    let limit = Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default());
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if began.elapsed() < limit => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return unknown(error.to_string()),
        }
    }
}
