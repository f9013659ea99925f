//! A hostile registry's headers and documents.

use super::challenge::parse;
use super::client::said;
use super::credentials::Credentials;
use super::manifest::media_type;

#[test]
fn registry_answers() {
    let corpus: [&[u8]; 5] = [
        br#"Bearer realm="https://a.example/token",service="s",scope="repository:a/b:pull""#,
        br#"Negotiate, Basic realm="x\"y", Bearer realm=r"#,
        br#"{"errors":[{"code":"DENIED","message":"no"}]}"#,
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
        b"eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJwIn0=",
    ];
    fuzz::run("registry_answers", &corpus, |input| {
        let _ = (said(input), media_type(None, input));
        let Ok(text) = std::str::from_utf8(input) else { return };
        let _ = Credentials::of_header(text);
        assert!(parse(text).len() <= 64);
    });
}
