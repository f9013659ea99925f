fn main() {
    let text = std::fs::read_to_string(std::env::args().nth(1).unwrap()).unwrap();
    let mut parser = tree_sitter::Parser::new();
    parser.set_language(&tree_sitter_powershell::LANGUAGE.into()).unwrap();
    let tree = parser.parse(&text, None).unwrap();
    fn show(node: tree_sitter::Node, text: &str, depth: usize) {
        let leaf = node.child_count() == 0;
        println!("{}{}{}{}", "  ".repeat(depth), node.kind(), if node.is_error()||node.is_missing() {" ERROR"} else {""}, if leaf { format!("  «{}»", &text[node.byte_range()]) } else { String::new() });
        let mut cursor = node.walk();
        for child in node.children(&mut cursor) { show(child, text, depth + 1); }
    }
    show(tree.root_node(), &text, 0);
}
