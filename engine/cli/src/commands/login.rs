//! `login` and `logout`.

use std::io::{self, BufRead as _, Read as _, Write as _};

use clap::Args;

use crate::client::{Client, Target};
use crate::credentials::{DEFAULT, Login, Logins, key_of};
use crate::failure::{Failure, Outcome};
use crate::{output, terminal};

/// A password of a megabyte is a mistake.
const LONGEST_PASSWORD: u64 = 1 << 20;

/// Authenticate to a registry
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Password, seen by everybody on this machine; better --password-stdin
    #[arg(long, short, value_name = "string")]
    password: Option<String>,
    /// Take the password from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(long, short, value_name = "string")]
    username: Option<String>,
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// Log out from a registry
#[derive(Args, Debug)]
pub(crate) struct Logout {
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

pub(crate) async fn login(client: &Client, options: Options) -> Outcome {
    let registry = key_of(options.server.as_deref().unwrap_or_default());
    let mut logins = Logins::read(client.config())?;
    let known = logins.get(&registry)?.unwrap_or_default();
    let login = asked(options, known).await?;
    let answer = client.post(&Target::new(["auth"]), Some(&login.to_json(&registry))).await?;
    let token = answer["IdentityToken"].as_str().unwrap_or_default();
    let kept = match token {
        "" => login,
        token => Login { identity_token: token.to_owned(), password: String::new(), ..login },
    };
    if logins.set(&registry, &kept)? {
        output::say(format!(
            "WARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this \
             warning (`credsStore` in that file).\n",
            logins.path().display()
        ));
    }
    output::line(answer["Status"].as_str().filter(|status| !status.is_empty()).unwrap_or("Login Succeeded"))
}

/// Who the user says to be, and what is known for what is not said.
async fn asked(options: Options, known: Login) -> Outcome<Login> {
    if options.password.is_some() && options.password_stdin {
        return Err(Failure::refused("--password and --password-stdin are mutually exclusive"));
    }
    if options.password_stdin && options.username.as_deref().is_none_or(str::is_empty) {
        return Err(Failure::refused("Must provide --username with --password-stdin"));
    }
    // With nothing said, what is known is tried again.
    let says_nothing = options.username.is_none() && options.password.is_none();
    if says_nothing && known != Login::default() {
        output::say("Authenticating with existing credentials...");
        return Ok(known);
    }
    let username = match options.username {
        Some(username) => username,
        None => prompt("Username", &known.username)?,
    };
    let password = if options.password_stdin {
        let mut text = String::new();
        io::stdin().take(LONGEST_PASSWORD).read_to_string(&mut text).map_err(Failure::Input)?;
        text.trim_end_matches('\n').trim_end_matches('\r').to_owned()
    } else if let Some(password) = options.password {
        output::say("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        password
    } else {
        secret("Password").await?
    };
    if username.is_empty() {
        return Err(Failure::refused("username is required"));
    }
    if password.is_empty() {
        return Err(Failure::refused("password is required"));
    }
    Ok(Login { username, password, identity_token: String::new() })
}

/// Asks on the terminal; an empty answer is what is known.
fn prompt(what: &str, known: &str) -> Outcome<String> {
    if !terminal::input_is_terminal() {
        return Err(Failure::refused("cannot perform an interactive login from a non TTY device"));
    }
    let suffix = if known.is_empty() { String::new() } else { format!(" ({known})") };
    // Where the answers of the command go, so that it stands before what is typed.
    let mut out = io::stdout();
    write!(out, "{what}{suffix}: ").and_then(|()| out.flush()).map_err(Failure::Output)?;
    let mut line = String::new();
    io::stdin().lock().take(LONGEST_PASSWORD).read_line(&mut line).map_err(Failure::Input)?;
    let line = line.trim_end_matches(['\r', '\n']);
    Ok(if line.is_empty() { known.to_owned() } else { line.to_owned() })
}

/// The same, not shown while it is typed. Ctrl-C shows again what is typed after it.
async fn secret(what: &'static str) -> Outcome<String> {
    let hidden = terminal::input_is_terminal().then(terminal::Hidden::begin).transpose();
    let _hidden = hidden.map_err(Failure::Input)?;
    let typed = tokio::task::spawn_blocking(move || prompt(what, ""));
    tokio::select! {
        typed = typed => {
            let typed = typed.map_err(|error| Failure::Input(io::Error::other(error)))??;
            output::line("")?;
            Ok(typed)
        }
        _ = tokio::signal::ctrl_c() => {
            output::line("")?;
            // What a shell says of a program that was interrupted.
            Err(Failure::Exit(130))
        }
    }
}

pub(crate) fn logout(client: &Client, options: Logout) -> Outcome {
    let registry = key_of(options.server.as_deref().unwrap_or_default());
    let shown = if registry == DEFAULT { DEFAULT } else { &registry };
    let mut logins = Logins::read(client.config())?;
    if logins.get(&registry)?.is_none() {
        return output::line(format!("Not logged in to {shown}"));
    }
    output::line(format!("Removing login credentials for {shown}"))?;
    logins.erase(&registry)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn options(username: Option<&str>, password: Option<&str>, stdin: bool) -> Options {
        Options {
            password: password.map(str::to_owned),
            password_stdin: stdin,
            username: username.map(str::to_owned),
            server: None,
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_together_is_refused() {
        let refused = async |options| asked(options, Login::default()).await.unwrap_err().to_string();
        assert_eq!(
            refused(options(Some("me"), Some("x"), true)).await,
            "--password and --password-stdin are mutually exclusive"
        );
        assert_eq!(refused(options(None, None, true)).await, "Must provide --username with --password-stdin");
        assert_eq!(refused(options(Some(""), Some("x"), false)).await, "username is required");
        assert_eq!(
            asked(options(Some("me"), Some("x"), false), Login::default()).await.unwrap().password,
            "x"
        );
        let known = Login { username: "me".into(), password: "p".into(), identity_token: String::new() };
        assert_eq!(asked(options(None, None, false), known.clone()).await.unwrap(), known);
    }
}
