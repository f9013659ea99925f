//! Whole templates against what Go prints for them; the expectations were taken from Go programs.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use crate::{Answer, Methods, MissingField, Parser, parse};

fn data() -> Value {
    json!({
        "Name": "default",
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": null},
        "List": ["a", "b", "c"],
        "Labels": {"zone": "one", "app": "web"},
        "Count": 1_000_000,
        "Ratio": 1.5,
        "Nothing": null,
        "Yes": true,
        "Empty": [],
    })
}

/// The output, or the message of the error.
fn run(text: &str) -> String {
    parse(text).and_then(|template| template.render(&data())).unwrap_or_else(|error| error.to_string())
}

#[test]
fn prints_as_go_does() {
    for (text, expected) in [
        ("{{.Name}}", "default"),
        ("{{.Nope}} {{.Nope.Deeper}} {{.Nothing}}", "<no value> <no value> <no value>"),
        ("{{.Count}} {{.Ratio}} {{.Yes}}", "1000000 1.5 true"),
        ("{{.List}} {{.Labels}}", "[a b c] map[app:web zone:one]"),
        (
            "{{json .Labels}} {{json .Nope}} {{.Labels | json}}",
            r#"{"zone":"one","app":"web"} null {"zone":"one","app":"web"}"#,
        ),
        ("{{range .List}}[{{.}}]{{end}}", "[a][b][c]"),
        ("{{range $i, $x := .List}}{{$i}}={{$x}} {{end}}", "0=a 1=b 2=c "),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "app=web;zone=one;"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a"),
        ("{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}", "ac"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{with .Name}}{{.}} of {{$.Ratio}}{{end}}{{with .Nope}}x{{else}}!{{end}}", "default of 1.5!"),
        ("{{with .Nope}}x{{else with .Name}}{{.}}{{end}}", "default"),
        ("{{if .Nope}}a{{else if .Yes}}b{{else}}c{{end}}", "b"),
        (
            "{{if and .Yes (not .Empty)}}ok{{end}} {{or .Nope \"else\"}} {{and 1 0 (index \"a\" 9)}}",
            "ok else 0",
        ),
        ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
        (
            "{{range $p, $c := .Ports}}{{$p}} -> {{(index $c 0).HostPort}}{{end}}",
            "template: :1:39: executing \"\" at <index $c 0>: error calling index: index of untyped nil",
        ),
        (
            "{{range $p, $c := .Ports}}{{$p}}{{with $c}} -> {{(index . 0).HostPort}}{{end}} {{end}}",
            "53/udp 80/tcp -> 8080 ",
        ),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{$y := 3}}{{$y}}{{end}}{{$x}}", "32"),
        (
            "{{.Name | printf \"%s-%s\" \"x\"}} {{printf \"%q %5.2f\" .Name .Ratio}}",
            "x-default \"default\"  1.50",
        ),
        ("{{print 1 2 \"a\" 3 \"b\"}} {{println \"x\" 1}}", "1 2a3b x 1\n"),
        (
            "{{eq 1 2 1}} {{ne 1 2}} {{le 1 1}} {{gt \"b\" \"a\"}} {{eq .Nope nil}} {{eq nil nil}}",
            "true true true true true true",
        ),
        (
            "{{len .List}} {{len .Name}} {{len .Labels}} {{slice .Name 1 3}} {{slice .List 1}}",
            "3 7 2 ef [b c]",
        ),
        ("{{index .Name 0}} {{index .Labels \"no\"}} {{index .List 1}}", "100 <no value> b"),
        (
            "{{urlquery \"a b&c\" \"d\"}} {{html \"<a>\" 1}} {{js \"it's <\"}}",
            "a+b%26cd &lt;a&gt;1 it\\'s \\u003C",
        ),
        (
            "{{join (split \"a,b\" \",\") \"-\"}} {{title \"ab cd\"}} {{pad \"x\" 2 3}}| {{truncate \"abcdef\" 3}} {{upper \"a\"}}",
            "a-b Ab Cd   x   | abc A",
        ),
        (
            "{{printf \"%q\" 97}} {{print nil}} {{1.0}} {{1e3}} {{0x10}} {{'a'}} {{`c`}} {{\"a\\tb\"}}",
            "'a' <nil> 1 1000 16 97 c a\tb",
        ),
        (
            "{{define \"x\"}}A{{.}}{{end}}{{template \"x\" .Name}} {{block \"y\" .List}}{{len .}}{{end}}",
            "Adefault 3",
        ),
        ("a  {{- /* comment */ -}}  b {{- \" c\" }}", "ab c"),
        ("{{range .List}}{{$.Name}}{{end}}", "defaultdefaultdefault"),
    ] {
        assert_eq!(run(text), expected, "{text}");
    }
}

#[test]
fn complains_as_go_does() {
    for (text, expected) in [
        ("{{foo}}", "template: :1: function \"foo\" not defined"),
        ("{{.A", "template: :1: unclosed action"),
        ("{{if}}x{{end}}", "template: :1: missing value for if"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{else}}", "template: :1: unexpected {{else}}"),
        ("\n{{if true}}", "template: :2: unexpected EOF"),
        ("{{1|2}}", "template: :1: non executable command in pipeline stage 2"),
        ("{{.Name.}}", "template: :1: unexpected <.> in operand"),
        ("{{ .Name }", "template: :1: unexpected \"}\" in operand"),
        ("{{$y}}", "template: :1: undefined variable \"$y\""),
        ("{{break}}", "template: :1: {{break}} outside {{range}}"),
        ("{{(1}}", "template: :1: unclosed left paren"),
        (
            "{{\"a\" \"b\"}}",
            "template: :1:2: executing \"\" at <\"a\">: can't give argument to non-function \"a\"",
        ),
        (
            "{{.Name.X.Y}}",
            "template: :1:7: executing \"\" at <.Name.X.Y>: can't evaluate field X in type string",
        ),
        (
            "{{.Nothing.X}}",
            "template: :1:10: executing \"\" at <.Nothing.X>: nil pointer evaluating interface {}.X",
        ),
        (
            "{{eq 1 1.0}}",
            "template: :1:2: executing \"\" at <eq 1 1.0>: error calling eq: incompatible types for comparison",
        ),
        (
            "{{lt 1 \"a\"}}",
            "template: :1:2: executing \"\" at <lt 1 \"a\">: error calling lt: incompatible types for comparison",
        ),
        ("{{len 3}}", "template: :1:2: executing \"\" at <len 3>: error calling len: len of type int"),
        ("{{len}}", "template: :1:2: executing \"\" at <len>: wrong number of args for len: want 1 got 0"),
        (
            "{{index \"abc\" 7}}",
            "template: :1:2: executing \"\" at <index \"abc\" 7>: error calling index: index out of range: 7",
        ),
        ("{{nil}}", "template: :1:2: executing \"\" at <nil>: nil is not a command"),
        (
            "{{template \"x\"}}",
            "template: :1:11: executing \"\" at <{{template \"x\"}}>: template \"x\" not defined",
        ),
        (
            "{{range .Name}}{{end}}",
            "template: :1:8: executing \"\" at <.Name>: range can't iterate over default",
        ),
    ] {
        assert_eq!(run(text), expected, "{text}");
    }
}

#[test]
fn data_as_go_decodes_it_has_float_numbers_and_sorted_keys() {
    let render = |text: &str| Parser::decoded().parse(text).and_then(|template| template.render(&data()));
    assert_eq!(render("{{.Count}} {{.Ratio}}").unwrap(), "1e+06 1.5");
    assert_eq!(render("{{json .Count}} {{json .Labels}}").unwrap(), r#"1000000 {"app":"web","zone":"one"}"#);
    assert_eq!(render("{{printf \"%d\" .Count}}").unwrap(), "%!d(float64=1e+06)");
    assert_eq!(
        render("{{prettyjson .Labels}}").unwrap(),
        "{\n    \"app\": \"web\",\n    \"zone\": \"one\"\n}"
    );
    assert_eq!(
        render("{{eq .Ratio 1}}").unwrap_err().to_string(),
        "template: :1:2: executing \"\" at <eq .Ratio 1>: error calling eq: incompatible types for comparison"
    );
}

#[test]
fn missing_fields_can_be_refused() {
    let refuse = Parser::docker().missing(MissingField::Refuse).parse("{{.A.Nope}}").unwrap();
    assert_eq!(
        refuse.render(&json!({"A": {}})).unwrap_err().to_string(),
        "template: :1:4: executing \"\" at <.A.Nope>: map has no entry for key \"Nope\""
    );
    let typed = Parser::docker()
        .missing(MissingField::OfType("*formatter.ContainerContext"))
        .parse("{{.Nope}}")
        .unwrap();
    assert_eq!(
        typed.render(&json!({})).unwrap_err().to_string(),
        "template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type *formatter.ContainerContext"
    );
}

#[test]
fn absent_map_entries_can_be_empty_strings() {
    let template = Parser::docker()
        .empty_index(true)
        .parse("[{{index .Labels \"no\"}}] [{{index .Labels \"app\"}}]")
        .unwrap();
    assert_eq!(template.render(&data()).unwrap(), "[] [web]");
}

#[test]
fn methods_take_arguments() {
    struct Labels;
    impl Methods for Labels {
        fn call(&self, name: &str, receiver: &Value, arguments: &[Value]) -> Option<Answer> {
            let key = arguments.first().and_then(Value::as_str)?;
            (name == "Label").then(|| Ok(receiver["Labels"].get(key).cloned().unwrap_or_else(|| "".into())))
        }
    }
    let template = parse("{{.Label \"app\"}}{{\"zone\" | .Label}}{{.Label \"no\"}}").unwrap();
    assert_eq!(template.render_with(&data(), &Labels).unwrap(), "webone");
    assert_eq!(
        parse("{{.Name \"x\"}}").unwrap().render(&data()).unwrap_err().to_string(),
        "template: :1:2: executing \"\" at <.Name>: Name is not a method but has arguments"
    );
}

#[test]
fn functions_can_be_added() {
    let parser = Parser::standard().function("twice", |arguments| match arguments {
        [Value::String(text)] => Ok(Value::String(text.repeat(2))),
        _ => Err("expected a string".to_owned()),
    });
    let template = parser.clone().parse("{{twice .Name}}").unwrap();
    assert_eq!(template.render(&data()).unwrap(), "defaultdefault");
    assert!(parser.clone().parse("{{json .}}").is_err());
    assert_eq!(
        parser.parse("{{twice 1}}").unwrap().render(&data()).unwrap_err().to_string(),
        "template: :1:2: executing \"\" at <twice 1>: error calling twice: expected a string"
    );
}

#[test]
fn hostile_templates_come_to_an_end() {
    for text in [
        "{{range 100000000000}}{{end}}",
        "{{range 4000}}{{range 4000}}{{end}}{{end}}",
        "{{define \"x\"}}{{template \"x\" .}}{{end}}{{template \"x\" .}}",
        "{{$x := \"aaaaaaaaaaaaaaaa\"}}{{range 100}}{{$x = print $x $x}}{{end}}",
        "{{range 1000}}{{printf \"%100000d\" 1}}{{end}}",
        &format!("{}1{}", "{{if 1}}".repeat(200), "{{end}}".repeat(200)),
        &format!("{{{{{}1{}}}}}", "(".repeat(10_000), ")".repeat(10_000)),
    ] {
        let outcome = parse(text).and_then(|template| template.render(&Value::Null));
        assert!(outcome.is_err(), "{text:.80}");
    }
}
