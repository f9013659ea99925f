//! Hostile profiles, rules and names.

use std::collections::HashSet;
use std::path::Path;

#[test]
fn seccomp_profiles() {
    let corpus: [&[u8]; 2] = [
        br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":
["SCMP_ARCH_X86"]}],"syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8","caps":["CAP_SYS_ADMIN"]}},
{"name":"clone","action":"SCMP_ACT_ERRNO","errnoRet":38,"args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[]}"#,
    ];
    let capabilities = HashSet::new();
    fuzz::run("seccomp_profiles", &corpus, |input| {
        if let Ok(text) = std::str::from_utf8(input) {
            let _ = super::seccomp::parse_profile(text, &capabilities);
        }
    });
}

#[test]
fn device_rules_and_hosts() {
    let corpus: [&[u8]; 4] = [b"c 1:3 rwm", b"b *:* m", b"name:1.2.3.4", b"name=::1"];
    fuzz::run("device_rules_and_hosts", &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let _ = text.parse::<super::devices::DeviceRule>();
        let _ = super::etc::extra_hosts(&[text.to_owned()], &[]);
        let cleaned = super::confine::clean(Path::new(text));
        assert!(
            cleaned.is_absolute()
                && !cleaned.components().any(|part| part == std::path::Component::ParentDir)
        );
    });
}
