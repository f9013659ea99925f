//! `machine env` in the shells that run what it prints: in their real programs, with awkward paths.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::{Home, show, stderr, stdout};

/// A shell, and the line that README and `env --help` give for it. `MACHINE` stands for the program with its options.
struct Real {
    program: &'static str,
    arguments: &'static [&'static str],
    /// The word for `--shell`.
    word: &'static str,
    set: &'static str,
    unset: &'static str,
}

const SHELLS: [Real; 5] = [
    Real { program: "bash", arguments: &["--norc"], word: "bash", set: POSIX_SET, unset: POSIX_UNSET },
    Real { program: "zsh", arguments: &["-f"], word: "zsh", set: POSIX_SET, unset: POSIX_UNSET },
    Real { program: "dash", arguments: &[], word: "sh", set: POSIX_SET, unset: POSIX_UNSET },
    Real {
        program: "fish",
        arguments: &["--no-config"],
        word: "fish",
        set: "$MACHINE env mc1 | source",
        unset: "$MACHINE env -u | source",
    },
    Real {
        program: "tcsh",
        arguments: &["-f"],
        word: "tcsh",
        set: "eval `$MACHINE:q env mc1`",
        unset: "eval `$MACHINE:q env -u`",
    },
];

const POSIX_SET: &str = "eval \"$(\"$MACHINE\" env mc1)\"";
const POSIX_UNSET: &str = "eval \"$(\"$MACHINE\" env -u)\"";

/// Where a shell is missing, that is said, and CI takes it for a failure.
fn found(program: &str) -> bool {
    let there =
        ["/usr/bin", "/bin", "/usr/local/bin"].iter().any(|folder| Path::new(folder).join(program).exists());
    if !there {
        skipped::say(program, "`machine env` is not tried in this shell, which is not installed");
    }
    there
}

/// A store at this path below a folder of the test's own, with a host that has certificates.
fn store_at(home: &Home, name: &str) -> std::path::PathBuf {
    let store = home.folder.path().join(name);
    let arguments = ["create", "-d", "none", "--url", "tcp://192.0.2.7:2376", "mc1"];
    let made = home.command(&arguments).env("MACHINE_STORAGE_PATH", &store).output().unwrap();
    assert!(made.status.success(), "{}", show(&made));
    // A host without a driver has none; what `env` prints for one that has is to be run.
    let folder = store.join("machines/mc1");
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        fs::copy(store.join("certs").join(file), folder.join(file)).unwrap();
    }
    // Records that were written before they said how an engine is reached are taken for what lies beside them.
    let config = folder.join("config.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("Transport").expect("the record says how it is reached");
    fs::write(&config, record.to_string()).unwrap();
    store
}

/// Runs a script in a shell, with the store in the environment.
fn run(shell: &Real, script: &str, store: &Path, home: &Home) -> String {
    let mut command = Command::new(shell.program);
    command
        .args(shell.arguments)
        .args(["-c", script])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home.folder.path())
        .env("LC_ALL", "C.UTF-8")
        .env("SHELL", format!("/bin/{}", shell.word))
        .env("MACHINE", env!("CARGO_BIN_EXE_machine"))
        .env("MACHINE_STORAGE_PATH", store)
        .env("DOCKER_HOST", "tcp://before:1")
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}: {}", shell.program, show(&output));
    assert_eq!(stderr(&output), "", "{}", shell.program);
    stdout(&output)
}

#[test]
fn every_shell_takes_what_env_prints() {
    let home = Home::new();
    let stores = [
        "plain",
        "with a blank",
        "two  blanks and a tab\t",
        "quotes ' and \"",
        "$HOME and ${HOME} and $(touch owned)",
        "`touch owned`",
        "bang!bang !! !$",
        "back\\slash\\n and \\",
        "star * [a-z] ? {a,b} ~",
        "semi;colon & pipe | # hash",
        "schön 🙂",
        "line\nbreak\n\nafter",
        "-n",
    ];
    for shell in SHELLS.iter().filter(|shell| found(shell.program)) {
        for name in stores {
            let store = store_at(&home, &format!("{}/{name}", shell.program));
            let variables = "DOCKER_TLS_VERIFY DOCKER_HOST DOCKER_CERT_PATH DOCKER_MACHINE_NAME";
            let print: String =
                variables.split(' ').map(|name| format!("printenv {name}; echo end of {name}; ")).collect();
            let text = run(shell, &format!("{}\n{print}", shell.set), &store, &home);
            let expected = format!(
                "1\nend of DOCKER_TLS_VERIFY\ntcp://192.0.2.7:2376\nend of DOCKER_HOST\n{}\nend of \
                 DOCKER_CERT_PATH\nmc1\nend of DOCKER_MACHINE_NAME\n",
                store.join("machines/mc1").display()
            );
            assert_eq!(text, expected, "{}: {name:?}", shell.program);
            let text = run(shell, &format!("{}\n{}\nenv", shell.set, shell.unset), &store, &home);
            let left = text.lines().filter(|line| line.starts_with("DOCKER_")).collect::<Vec<_>>();
            assert!(left.is_empty(), "{}: {name:?}: {left:?}", shell.program);
        }
    }
    assert!(!home.folder.path().join("owned").exists() && !Path::new("owned").exists(), "something was run");
}

/// The hint at the end of `env`, taken from its comment and typed again, does what it says.
#[test]
fn the_hint_works_when_it_is_typed() {
    let home = Home::new();
    for shell in SHELLS.iter().filter(|shell| found(shell.program)) {
        for name in
            ["plain", "with  blanks", "dollar $HOME", "quote \"x\"", "semi;colon", "back\\slash", "schön"]
        {
            let store = store_at(&home, &format!("{}/{name}", shell.program));
            let arguments = ["-s", store.to_str().unwrap(), "env", "--shell", shell.word, "mc1"];
            let text = stdout(&home.machine(&arguments));
            let hint = text.lines().last().unwrap();
            let typed = match shell.word {
                "tcsh" => hint.strip_prefix(": '").and_then(|hint| hint.strip_suffix('\'')),
                _ => hint.strip_prefix("# "),
            };
            let typed = typed.unwrap_or_else(|| panic!("{}: {text}", shell.program));
            let text =
                run(shell, &format!("{typed}\nprintenv DOCKER_CERT_PATH"), Path::new("/nowhere"), &home);
            let expected = format!("{}\n", store.join("machines/mc1").display());
            assert_eq!(text, expected, "{}: {name:?}: {typed}", shell.program);
        }
    }
}

#[test]
fn the_forms_that_are_shown_are_the_forms_that_are_run() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let help = stdout(&Home::new().machine(&["env", "--help"]));
    for text in [&readme, &help] {
        for form in [
            "eval \"$(machine env mc1)\"",
            "machine env mc1 | source",
            "machine env mc1 | Invoke-Expression",
            "eval `machine env mc1`",
        ] {
            assert!(text.contains(form), "{form} is missing in:\n{text}");
        }
    }
}

#[test]
fn both_spellings_of_no_proxy_are_changed_where_both_are_set() {
    let home = Home::with(&["mc1"]);
    let printed = |arguments: &[&str], upper: &str, lower: &str| {
        let mut command = home.command(arguments);
        let output = command.env("NO_PROXY", upper).env("no_proxy", lower).output().unwrap();
        let text = stdout(&output);
        text.lines()
            .filter(|line| line.to_lowercase().contains("no_proxy") && !line.starts_with('#'))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let set = |upper, lower| printed(&["env", "--no-proxy", "mc1"], upper, lower);
    assert_eq!(set("", ""), ["export NO_PROXY=\"192.0.2.7\""]);
    assert_eq!(set("a", ""), ["export NO_PROXY=\"a,192.0.2.7\""]);
    assert_eq!(set("", "b"), ["export no_proxy=\"b,192.0.2.7\""]);
    assert_eq!(set("a", "b"), ["export NO_PROXY=\"a,192.0.2.7\"", "export no_proxy=\"b,192.0.2.7\""]);
    let unset = |upper, lower| printed(&["env", "--unset", "--no-proxy"], upper, lower);
    assert_eq!(unset("", ""), ["unset NO_PROXY"]);
    assert_eq!(unset("192.0.2.7", ""), ["unset NO_PROXY"]);
    assert_eq!(unset("a,192.0.2.7", ""), ["export NO_PROXY=\"a\""]);
    assert_eq!(unset("a,b", "192.0.2.7,c"), ["export NO_PROXY=\"a,b\"", "export no_proxy=\"c\""]);
    // Another address that looks alike is the user's own.
    assert_eq!(unset("192.0.2.70", ""), ["export NO_PROXY=\"192.0.2.70\""]);
    // Without the option, the list is nobody's business.
    assert_eq!(printed(&["env", "-u"], "a,192.0.2.7", ""), [""; 0]);
}

#[test]
fn env_u_with_a_name_is_refused_in_docker_machines_words() {
    let home = Home::with(&["mc1"]);
    let output = home.machine(&["env", "-u", "mc1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "Error: Expected no machine name when the -u flag is present\n");
}
