//! Hostile templates.

use serde_json::json;

#[test]
fn templates() {
    let corpus: [&[u8]; 4] = [
        b"{{range .Names}}{{.}} {{else}}none{{end}}",
        b"{{with $x := .Size}}{{printf \"%05.1f|%q|%x\" $x \"a\" 3}}{{end}}",
        b"{{if and .Up (eq .State \"up\") (gt .Size 1)}}{{json .}}{{else if not .Up}}{{index .Names 0}}{{end}}",
        b"{{- define \"t\" -}}{{len .}}{{- end -}}{{template \"t\" .Names}}{{/* c */}}",
    ];
    let data = json!({ "Names": ["a", "b"], "Size": 3, "State": "up", "Up": true });
    fuzz::run("templates", &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(template) = super::parse(text) {
            let _ = template.render(&data);
        }
    });
}
