//! XML as a tree: what the EC2 API says is read, edited by element, and written again.

use anyhow::{Context as _, Result, bail};
use quick_xml::{
    Reader,
    escape::resolve_predefined_entity,
    events::{BytesStart, Event},
};

/// Answers are a few levels deep.
const DEEPEST: usize = 64;

/// An element. The API has no text beside elements, so the text is one string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) children: Vec<Element>,
    pub(crate) text: String,
}

impl Element {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub(crate) fn with_text(name: &str, text: impl Into<String>) -> Self {
        Self { name: name.to_owned(), text: text.into(), ..Self::default() }
    }

    pub(crate) fn with(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }

    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(crate) fn child_mut(&mut self, name: &str) -> Option<&mut Element> {
        self.children.iter_mut().find(|child| child.name == name)
    }

    /// The text of a child; `None` when there is no such child, or nothing in it.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str()).filter(|text| !text.is_empty())
    }

    /// The children of a child: the items of a list.
    pub(crate) fn items(&self, name: &str) -> &[Element] {
        self.child(name).map_or(&[], |list| list.children.as_slice())
    }

    /// Replaces the child of the same name, or appends it.
    pub(crate) fn set(&mut self, child: Element) {
        match self.child_mut(&child.name) {
            Some(old) => *old = child,
            None => self.children.push(child),
        }
    }

    pub(crate) fn set_text(&mut self, name: &str, text: impl Into<String>) {
        self.set(Element::with_text(name, text));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.children.retain(|child| child.name != name);
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(text).context("The answer is not UTF-8")?;
        let mut reader = Reader::from_str(text);
        let mut open: Vec<Element> = Vec::new();
        loop {
            match reader.read_event().context("The answer is no XML")? {
                Event::Start(start) => {
                    if open.len() == DEEPEST {
                        bail!("The answer is nested too deeply");
                    }
                    open.push(begin(&start)?);
                }
                Event::Empty(start) => {
                    let element = begin(&start)?;
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => return Ok(element),
                    }
                }
                Event::End(_) => {
                    let element = open.pop().context("The answer ends more than it begins")?;
                    let Some(parent) = open.last_mut() else { return Ok(element.without_indentation()) };
                    parent.children.push(element.without_indentation());
                }
                Event::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                Event::CData(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                Event::GeneralRef(reference) => {
                    let Some(element) = open.last_mut() else { continue };
                    if let Some(letter) = reference.resolve_char_ref()? {
                        element.text.push(letter);
                    } else {
                        let name = &*reference;
                        let letter = resolve_predefined_entity(name)
                            .with_context(|| format!("The answer has an unknown entity `{name}`"))?;
                        element.text.push_str(letter);
                    }
                }
                Event::Eof => bail!("The answer ends in the middle"),
                _ => {}
            }
        }
    }

    fn without_indentation(mut self) -> Self {
        if !self.children.is_empty() && self.text.trim().is_empty() {
            self.text.clear();
        }
        self
    }

    /// The whole document.
    pub(crate) fn document(&self) -> String {
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) {
        to.push('<');
        to.push_str(&self.name);
        for (name, value) in &self.attributes {
            to.push(' ');
            to.push_str(name);
            to.push_str("=\"");
            escape(value, to);
            to.push('"');
        }
        if self.children.is_empty() && self.text.is_empty() {
            to.push_str("/>");
            return;
        }
        to.push('>');
        escape(&self.text, to);
        for child in &self.children {
            child.write(to);
        }
        to.push_str("</");
        to.push_str(&self.name);
        to.push('>');
    }
}

fn begin(start: &BytesStart<'_>) -> Result<Element> {
    let mut element = Element::new(start.name().as_ref());
    for attribute in start.attributes() {
        let attribute = attribute.context("The answer has a broken attribute")?;
        let name = attribute.key.as_ref().to_owned();
        let value = quick_xml::escape::unescape(&attribute.value)?.into_owned();
        element.attributes.push((name, value));
    }
    Ok(element)
}

fn escape(text: &str, to: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '"' => to.push_str("&quot;"),
            '\r' => to.push_str("&#13;"),
            letter => to.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written() {
        let text = "<a xmlns=\"http://x/\">\n  <b>1 &lt; 2 &amp;&#65; &quot;</b>\n  <c/>\n  <b><![CDATA[<x>]]></b></a>";
        let element = Element::parse(text.as_bytes()).unwrap();
        assert_eq!(element.value("b"), Some("1 < 2 &A \""));
        assert_eq!(element.children[2].text, "<x>");
        assert_eq!(element.value("c"), None);
        let again = Element::parse(element.document().as_bytes()).unwrap();
        assert_eq!(element, again);
    }

    #[test]
    fn an_element_is_replaced_appended_and_removed() {
        let mut element = Element::parse(b"<a><b>1</b></a>").unwrap();
        element.set_text("b", "2");
        element.set_text("c", "3");
        assert_eq!((element.value("b"), element.value("c")), (Some("2"), Some("3")));
        element.remove("b");
        assert_eq!(element.children.len(), 1);
    }

    #[test]
    fn what_is_no_xml_is_refused() {
        for text in ["", "<a>", "<a></b>", "hello", "<a>&what;</a>"] {
            assert!(Element::parse(text.as_bytes()).is_err(), "{text}");
        }
        let deep = "<a>".repeat(100);
        assert!(Element::parse(deep.as_bytes()).is_err());
    }
}
