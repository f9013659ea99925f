//! The scripts as text: PowerShell's grammar, and no cmdlet or parameter that is not in the table.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};

use tree_sitter::{Node, Parser};

#[path = "../stand_in/table.rs"]
mod table;

/// All scripts, with their names.
fn scripts() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/hyperv");
    let read = |path: &Path| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap())
    };
    let scripts: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| read(&entry.unwrap().path())).collect();
    assert!(scripts.len() > 5, "{scripts:?}");
    scripts
}

fn all<'t>(node: Node<'t>, found: &mut Vec<Node<'t>>) {
    found.push(node);
    let mut cursor = node.walk();
    for child in node.children(&mut cursor) {
        all(child, found);
    }
}

/// Calls `each` with every node of every script, and the script's name and text.
fn for_all(mut each: impl FnMut(&str, &str, Node<'_>)) {
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_powershell::LANGUAGE.into()).unwrap();
    for (name, text) in scripts() {
        let tree = parser.parse(&text, None).unwrap();
        let mut nodes = Vec::new();
        all(tree.root_node(), &mut nodes);
        for node in nodes {
            each(&name, &text, node);
        }
    }
}

#[test]
fn every_script_is_powershell_and_says_what_it_is_for() {
    for_all(|name, text, node| {
        assert!(!node.is_error() && !node.is_missing(), "{name}: {}", node.start_position());
        assert!(text.starts_with("# "), "{name}");
    });
}

#[test]
fn every_cmdlet_and_parameter_is_documented_and_used() {
    let mut functions = BTreeSet::new();
    for_all(|_, text, node| {
        if node.kind() == "function_name" {
            functions.insert(text[node.byte_range()].to_owned());
        }
    });
    let mut used = BTreeSet::new();
    for_all(|name, text, node| {
        if node.kind() != "command" {
            return;
        }
        let mut inside = Vec::new();
        all(node, &mut inside);
        let word = inside.iter().find(|part| part.kind() == "command_name").unwrap();
        let command = &text[word.byte_range()];
        let mut parameters = Vec::new();
        let mut cursor = node.walk();
        for elements in node.children(&mut cursor).filter(|child| child.kind() == "command_elements") {
            let mut cursor = elements.walk();
            for element in elements.children(&mut cursor).filter(|child| child.kind() == "command_parameter")
            {
                parameters.push(text[element.byte_range()].trim_start_matches('-').to_owned());
            }
        }
        if functions.contains(command) {
            assert!(parameters.is_empty(), "{name}: functions are called by place: {command}");
            return;
        }
        let cmdlet =
            table::find(command).unwrap_or_else(|| panic!("{name}: `{command}` is not in the table"));
        used.insert(cmdlet.name.to_owned());
        for parameter in parameters {
            let (known, _) = cmdlet
                .parameter(&parameter)
                .unwrap_or_else(|| panic!("{name}: `-{parameter}` of `{command}` is not in the table"));
            used.insert(format!("{} -{known}", cmdlet.name));
        }
    });
    for cmdlet in table::CMDLETS {
        assert!(cmdlet.source.starts_with("https://learn.microsoft.com/powershell/module/"), "{cmdlet:?}");
        assert!(used.contains(cmdlet.name), "no script uses `{}`", cmdlet.name);
        for (parameter, _) in cmdlet.parameters {
            let whole = format!("{} -{parameter}", cmdlet.name);
            assert!(used.contains(&whole), "no script uses `{whole}`");
        }
    }
}

#[test]
fn nothing_in_a_script_makes_code_of_text() {
    for_all(|name, text, node| {
        let source = text[node.byte_range()].to_lowercase();
        if ["command_name", "generic_token"].contains(&node.kind()) {
            for word in ["invoke-expression", "iex", "invoke-command", "start-process", "add-type"] {
                assert_ne!(source, word, "{name}");
            }
        }
        assert_ne!(node.kind(), "command_invokation_operator", "{name}: {source}");
        assert!(!(node.kind() == "type_literal" && source.contains("scriptblock")), "{name}: {source}");
    });
}
