//! The stand-in itself: it runs what is in the table, and refuses everything else by its name.

#![allow(clippy::unwrap_used)]

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

mod support;

use support::World;

/// What a script says on standard output, or else on standard error.
fn run(powershell: &Path, script: &str, input: &str) -> Result<String, String> {
    let bytes: Vec<u8> = script.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let switches =
        ["-NoLogo", "-NoProfile", "-NonInteractive", "-InputFormat", "Text", "-OutputFormat", "Text"];
    let mut child = Command::new(powershell)
        .args(switches)
        .args(["-EncodedCommand", &STANDARD.encode(bytes)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let world = World::new();
    let powershell = world.powershell();
    for (script, named) in [
        ("Invoke-Expression 'x'", "the cmdlet `Invoke-Expression`"),
        ("Hyper-V\\Get-VM -ComputerName x", "the parameter `-ComputerName` of `Hyper-V\\Get-VM`"),
        ("Hyper-V\\Get-VM 'x'", "a value without a name"),
        ("$x = $y", "the variable `$y`, which was never set"),
        ("$x = 1 -gt 2", "the operator `-gt`"),
        ("$x = \"a$(1)\"", "what is put into the text"),
        ("$x = @{ a = 1 }\n$y = $x.b", "the member `b` of a Hashtable"),
        ("$x = [int]'1'", "the cast [int]'1'"),
        ("'something'", "The script leaves something behind"),
        ("if (", "The script is not in PowerShell's grammar"),
        ("throw 'x'", "`throw` of anything but an error record"),
    ] {
        let error = run(&powershell, script, "").unwrap_err();
        assert!(error.contains(named), "{script}: {error}");
    }
}

#[test]
fn texts_lists_and_loops_are_powershells() {
    let world = World::new();
    let script = "
        function Say($What) {
            $text = ConvertTo-Json -InputObject $What -Compress
            $bytes = [System.Text.Encoding]::UTF8.GetBytes($text)
            $output = [System.Console]::OpenStandardOutput()
            $output.Write($bytes, 0, $bytes.Length)
        }
        function Each($Many) { foreach ($one in $Many) { if ($one -ne 2) { return $one } } }
        $request = (@($input) -join '') | ConvertFrom-Json
        $all = @()
        for ($n = 0; $n -lt 3; $n += 1) { $all += @{ n = $n } }
        Say @{ all = $all; one = @($request.one); none = @(); first = (Each $request.many)
            same = ('Ab' -eq 'aB' -and 'Ab' -cne 'aB'); text = \"x-$n\"; nothing = $request.nothing }
    ";
    let input = r#"{"one": ["a"], "many": [2, 3, 4], "nothing": null}"#;
    let said = run(&world.powershell(), script, input).unwrap();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let expected = serde_json::json!({
        "all": [{"n": 0}, {"n": 1}, {"n": 2}], "one": ["a"], "none": [], "first": 3, "same": true, "text": "x-3",
        "nothing": null,
    });
    assert_eq!(said, expected);
}
