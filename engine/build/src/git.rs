//! Repositories of git, by the host's own program: which commit a name means, and its files.
//!
//! Nothing of the host's configuration counts, no program but git and ssh is run, and what a repository may hold and how long
//! its server may be silent is bounded.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine_model::{Failure, Kind};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::sync::CancellationToken;

use super::address::Repository;
use super::error::BuildError;
use super::reach::Reach;
use super::shop::size;

/// No honest repository is larger.
const MOST_BYTES: u64 = 64 << 30;
/// The list of a repository's branches and tags, for one.
const MOST_OUTPUT: usize = 4 << 20;
/// Of what git says when it fails, the end.
const MOST_ERRORS: usize = 4 << 10;
/// A server that sends nothing for as long is not waited for.
const STALLED: u32 = 18;
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Git has configuration by which it runs programs, and does work when nobody waits for it any more.
const CONFIGURATION: &str = "[init]\n\tdefaultBranch = master\n[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\
    [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[advice]\n\tdetachedHead = false\n\
    [http]\n\tlowSpeedLimit = 1\n\tlowSpeedTime = 60\n";
/// What git may be asked of, or may ask its own children.
const PROTOCOLS: &str = "http:https:git:ssh";

/// A repository that is being fetched, in a folder of its own.
#[derive(Debug)]
pub(crate) struct Git<'a> {
    repository: &'a Repository,
    program: PathBuf,
    folder: PathBuf,
    environment: Vec<(OsString, OsString)>,
    cancelled: &'a CancellationToken,
}

/// Why git came to no result.
enum Failed {
    /// What it said itself.
    Said(String),
    Otherwise(BuildError),
}

impl From<BuildError> for Failed {
    fn from(error: BuildError) -> Self {
        Self::Otherwise(error)
    }
}

/// The program, where the daemon's own path leads to one.
fn program(path: Option<OsString>) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let path = path?;
    std::env::split_paths(&path).map(|folder| folder.join("git")).find(is_program)
}

impl<'a> Git<'a> {
    /// Makes an empty repository in a folder, which is made.
    pub(crate) async fn begin(
        repository: &'a Repository,
        folder: &Path,
        reach: &Reach,
        cancelled: &'a CancellationToken,
    ) -> Result<Self, BuildError> {
        let Some(program) = program(std::env::var_os("PATH")) else {
            let message = format!(
                "`{}`: there is no program `git` on the engine's host, by which repositories are fetched: install it there \
                 (`apt-get install git`), or fetch the repository yourself",
                repository.shown()
            );
            return Err(BuildError::Other(Failure::new(Kind::Unsupported, message)));
        };
        let git = Self {
            repository,
            program,
            folder: folder.to_owned(),
            environment: environment(folder, reach),
            cancelled,
        };
        fs::create_dir_all(git.tree()).map_err(|error| git.internal(&error))?;
        write(&folder.join("config"), CONFIGURATION).map_err(|error| git.internal(&error))?;
        git.run(&["init", "-q"]).await.map_err(|failed| git.failure(failed))?;
        // Not as an argument, which others could see.
        let remote = format!("[remote \"origin\"]\n\turl = {}\n", quoted(&repository.url));
        write(&git.tree().join(".git/config"), &remote).map_err(|error| git.internal(&error))?;
        Ok(git)
    }

    /// Where the files are.
    pub(crate) fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// The commit that is meant, if that can be told without fetching all.
    pub(crate) async fn commit(&self) -> Result<Option<String>, BuildError> {
        let wanted = self.repository.reference.as_str();
        if is_commit(wanted) {
            return Ok(Some(wanted.to_ascii_lowercase()));
        }
        let (name, peeled) = match wanted {
            "" => ("HEAD", String::new()),
            name => (name, format!("{name}^{{}}")),
        };
        let mut arguments = vec!["ls-remote", "origin", name];
        if !peeled.is_empty() {
            arguments.push(&peeled);
        }
        let listed = self.run(&arguments).await.map_err(|failed| self.failure(failed))?;
        Ok(meant(&listed, name))
    }

    /// Brings the files of a commit, or of whatever is meant, and says which commit that is.
    pub(crate) async fn check_out(&self, commit: Option<&str>, keeps: bool) -> Result<String, BuildError> {
        let done = async {
            let commit = self.fetch(commit).await?;
            self.run(&["checkout", "-q", "--force", "--detach", &commit]).await?;
            if self.tree().join(".gitmodules").exists() {
                self.submodules().await?;
            }
            Ok(commit)
        };
        let commit = done.await.map_err(|failed| self.failure(failed))?;
        let (tree, login) = (self.tree(), self.repository.login().map(str::to_owned));
        let tidied = tokio::task::spawn_blocking(move || tidy(&tree, keeps, login.as_deref())).await?;
        tidied.map_err(|error| self.internal(&error))?;
        Ok(commit)
    }

    async fn fetch(&self, commit: Option<&str>) -> Result<String, Failed> {
        if let Some(commit) = commit {
            match self.run(&["fetch", "--progress", "--depth", "1", "--no-tags", "origin", commit]).await {
                Ok(_) => return Ok(commit.to_owned()),
                // Servers of files know nothing of depth, and old ones nothing of commits.
                Err(Failed::Said(said)) if is_for_all(&said) => {}
                Err(failed) => return Err(failed),
            }
        }
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        self.run(&["fetch", "--progress", "origin", all[0], all[1]]).await?;
        let wanted = commit.unwrap_or(&self.repository.reference);
        let whole = format!("{wanted}^{{commit}}");
        let found = self.run(&["rev-parse", "--verify", "-q", "--end-of-options", &whole]).await;
        let found = found.ok().map(|found| found.trim().to_owned()).filter(|found| is_commit(found));
        found.ok_or_else(|| Failed::Said(format!("repository does not contain ref {wanted}")))
    }

    async fn submodules(&self) -> Result<(), Failed> {
        let all = ["submodule", "update", "--init", "--recursive"];
        let shallow = [&all[..], &["--depth", "1"]].concat();
        match self.run(&shallow).await {
            Err(Failed::Said(said)) if is_for_all(&said) => self.run(&all).await.map(drop),
            done => done.map(drop),
        }
    }

    /// Runs git to its end, and returns what it has written.
    async fn run(&self, arguments: &[&str]) -> Result<String, Failed> {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(self.tree())
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| self.internal(&error))?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let heard = AtomicU64::new(0);
        let work = async {
            let reading = tokio::join!(beginning(output, &heard), end(errors, &heard));
            (reading, child.wait().await)
        };
        let ((output, errors), status) = tokio::select! {
            done = work => done,
            () = self.cancelled.cancelled() => return Err(BuildError::Cancelled.into()),
            message = self.watch(&heard) => return Err(Failed::Said(message)),
        };
        group.disarm();
        let status = status.map_err(|error| self.internal(&error))?;
        match output {
            _ if !status.success() => Err(Failed::Said(errors)),
            Ok(output) => Ok(output),
            Err(error) => Err(Failed::Said(error.to_string())),
        }
    }

    /// Ends when there is too much, or nothing more.
    async fn watch(&self, heard: &AtomicU64) -> String {
        let (mut before, mut idle) = ((0, 0), 0);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let folder = self.folder.clone();
            let bytes = tokio::task::spawn_blocking(move || size(&folder)).await.unwrap_or(0);
            if bytes > MOST_BYTES {
                return format!("it has more than {MOST_BYTES} bytes");
            }
            let now = (bytes, heard.load(Ordering::Relaxed));
            idle = if now == before { idle + 1 } else { 0 };
            before = now;
            if idle >= STALLED {
                return format!("its server has sent nothing for {} s", STALLED * 10);
            }
        }
    }

    fn failure(&self, failed: Failed) -> BuildError {
        let said = match failed {
            Failed::Otherwise(error) => return error,
            Failed::Said(said) => said,
        };
        let said = match self.repository.login() {
            Some(login) => said.replace(login, "***"),
            None => said,
        };
        let hint = if said.contains("Host key verification failed") {
            " (its key has to be in `/etc/ssh/ssh_known_hosts` of the engine's host)"
        } else {
            ""
        };
        let message = format!("failed to fetch {}: {}{hint}", self.repository.shown(), said.trim());
        BuildError::Other(Failure::new(Kind::Internal, message))
    }

    fn internal(&self, error: &io::Error) -> BuildError {
        self.failure(Failed::Said(error.to_string()))
    }
}

/// Programs that end with this, unless they are over.
struct Group(Option<Pid>);

impl Group {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn environment(folder: &Path, reach: &Reach) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ASKPASS", "true"),
        ("GIT_ALLOW_PROTOCOL", PROTOCOLS),
        ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"),
        ("LC_ALL", "C"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into();
    environment.push(("GIT_CONFIG_GLOBAL".into(), folder.join("config").into()));
    // By the home, ssh finds what the administrator has told it of hosts.
    for name in ["PATH", "HOME"] {
        environment.extend(std::env::var_os(name).map(|value| (name.into(), value)));
    }
    environment.extend(reach.proxies.iter().map(|(name, value)| (name.into(), value.into())));
    environment.extend(reach.agent.iter().map(|agent| ("SSH_AUTH_SOCK".into(), agent.into())));
    environment
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// As a value of git's configuration. There are no control characters in it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Of `git ls-remote`, the commit that a name means, in git's own order.
fn meant(listed: &str, name: &str) -> Option<String> {
    let lines: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
    let candidates = [
        format!("{name}^{{}}"),
        name.to_owned(),
        format!("refs/{name}^{{}}"),
        format!("refs/{name}"),
        format!("refs/tags/{name}^{{}}"),
        format!("refs/tags/{name}"),
        format!("refs/heads/{name}"),
    ];
    let find = |wanted: &String| lines.iter().find(|(_, found)| found == wanted);
    let commit = candidates.iter().find_map(find).map(|(commit, _)| (*commit).to_owned());
    commit.filter(|commit| is_commit(commit))
}

/// Whether a server gives all or nothing.
fn is_for_all(said: &str) -> bool {
    ["shallow", "not our ref", "unadvertised object", "dumb http", "couldn't find remote ref"]
        .iter()
        .any(|sign| said.contains(sign))
}

/// All that is written, unless that is too much.
async fn beginning(from: Option<impl AsyncRead + Unpin>, heard: &AtomicU64) -> io::Result<String> {
    let (mut all, mut is_over) = (Vec::new(), false);
    read(from, heard, |piece| {
        is_over |= all.len() + piece.len() > MOST_OUTPUT;
        if !is_over {
            all.extend_from_slice(piece);
        }
    })
    .await?;
    if is_over {
        return Err(io::Error::other(format!("git has written more than {MOST_OUTPUT} bytes")));
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

/// The end of what is written, in one line.
async fn end(from: Option<impl AsyncRead + Unpin>, heard: &AtomicU64) -> String {
    let mut last = Vec::new();
    let add = |piece: &[u8]| {
        last.extend_from_slice(piece);
        let extra = last.len().saturating_sub(MOST_ERRORS);
        last.drain(..extra);
    };
    // What was said before it broke is said.
    let _ = read(from, heard, add).await;
    let text = String::from_utf8_lossy(&last);
    // Progress overwrites its own line.
    let lines = text.lines().filter_map(|line| line.rsplit('\r').find(|part| !part.trim().is_empty()));
    let lines = lines.filter(|line| !line.contains("% ("));
    let lines: Vec<String> =
        lines.map(|line| line.trim().chars().filter(|one| !one.is_control()).collect()).collect();
    lines.join("; ")
}

async fn read(
    from: Option<impl AsyncRead + Unpin>,
    heard: &AtomicU64,
    mut add: impl FnMut(&[u8]),
) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut piece = vec![0; 8192];
    loop {
        match from.read(&mut piece).await? {
            0 => return Ok(()),
            count => {
                heard.fetch_add(count as u64, Ordering::Relaxed);
                add(&piece[..count]);
            }
        }
    }
}

/// Removes what git keeps for itself, or, of that, what is secret. Blocks.
fn tidy(folder: &Path, keeps: bool, login: Option<&str>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let is_own = entry.file_name() == ".git";
        match (is_own, keeps) {
            (true, false) if kind.is_dir() => fs::remove_dir_all(&path)?,
            (true, false) => fs::remove_file(&path)?,
            (true, true) if kind.is_dir() => forget(&path, login)?,
            _ if kind.is_dir() => tidy(&path, keeps, login)?,
            _ => {}
        }
    }
    Ok(())
}

/// Takes a name and a password out of what git has written down.
fn forget(folder: &Path, login: Option<&str>) -> io::Result<()> {
    let Some(login) = login else { return Ok(()) };
    let secret = format!("{login}@");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            forget(&path, Some(login))?;
        } else if kind.is_file()
            && matches!(entry.file_name().to_str(), Some("config" | "FETCH_HEAD" | "HEAD"))
        {
            let text = fs::read_to_string(&path)?;
            if text.contains(&secret) {
                fs::write(&path, text.replace(&secret, ""))?;
            }
        }
    }
    Ok(())
}

/// What there is of git to tell whether files are the same as last time.
pub(crate) fn key_of(commit: &str, repository: &Repository, keeps: bool) -> String {
    format!("git {commit} {keeps} {}", repository.folder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_name_means_what_git_takes_it_for() {
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let listed = format!(
            "{one}\trefs/heads/v1\n{one}\trefs/heads/other/v1\n{one}\trefs/tags/v1\n{two}\trefs/tags/v1^{{}}\n"
        );
        assert_eq!(meant(&listed, "v1"), Some(two.clone()));
        assert_eq!(meant(&listed, "heads/v1"), Some(one.clone()));
        assert_eq!(meant(&listed, "refs/heads/other/v1"), Some(one.clone()));
        assert_eq!(meant(&listed, "other"), None);
        assert_eq!(meant(&format!("{one}\tHEAD\n"), "HEAD"), Some(one));
        assert_eq!(meant("nonsense\tHEAD\n", "HEAD"), None);
    }

    #[test]
    fn the_program_is_looked_for_where_the_daemon_looks() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(program(None), None);
        let path = || Some(folder.path().as_os_str().to_owned());
        fs::create_dir(folder.path().join("git")).unwrap();
        assert_eq!(program(path()), None, "a folder runs nothing");
        fs::remove_dir(folder.path().join("git")).unwrap();
        fs::write(folder.path().join("git"), "").unwrap();
        assert_eq!(program(path()), None, "a text runs nothing");
        fs::set_permissions(folder.path().join("git"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(program(path()), Some(folder.path().join("git")));
    }

    #[tokio::test]
    async fn what_git_says_is_bounded_and_made_safe() {
        let heard = AtomicU64::new(0);
        let said = format!(
            "{}\nReceiving objects: 1% (1/9)\rReceiving objects: 2% (2/9)\rfatal:\u{1b}[31m no\n",
            "x".repeat(9000)
        );
        let text = end(Some(said.as_bytes()), &heard).await;
        assert!(text.ends_with("; fatal:[31m no") && text.len() < MOST_ERRORS, "{text}");
        assert_eq!(heard.load(Ordering::Relaxed), said.len() as u64);
        let endless = tokio::io::repeat(b'x').take(MOST_OUTPUT as u64 + 1);
        assert!(beginning(Some(endless), &heard).await.is_err());
    }

    #[test]
    fn what_is_secret_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join(".git/modules/x")).unwrap();
        fs::create_dir_all(folder.path().join("x")).unwrap();
        fs::write(folder.path().join("x/.git"), "gitdir: ../.git/modules/x\n").unwrap();
        for config in [".git/config", ".git/modules/x/config"] {
            fs::write(folder.path().join(config), "url = https://me:word@h/a.git\n").unwrap();
        }
        tidy(folder.path(), true, Some("me:word")).unwrap();
        for config in [".git/config", ".git/modules/x/config"] {
            assert_eq!(fs::read_to_string(folder.path().join(config)).unwrap(), "url = https://h/a.git\n");
        }
        tidy(folder.path(), false, None).unwrap();
        assert!(!folder.path().join(".git").exists() && !folder.path().join("x/.git").exists());
    }
}
