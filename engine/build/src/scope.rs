//! Build arguments: which are known where, and what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use engine_model::platform::architecture;

use super::config::Draft;
use super::words::{Variables, WordError, expand};

/// Known to every command without being asked for, and never part of what makes a step another one.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What a client gives.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Without a value it is as if it were not declared.
    values: BTreeMap<String, Option<String>>,
    used: Mutex<BTreeSet<String>>,
}

impl Given {
    pub(crate) fn new(values: BTreeMap<String, Option<String>>) -> Self {
        Self { values, used: Mutex::default() }
    }

    fn value(&self, name: &str) -> Option<String> {
        let value = self.values.get(name)?;
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        value.clone()
    }

    /// Names that no stage has asked for.
    pub(crate) fn unused(&self) -> Vec<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let names =
            self.values.keys().filter(|name| !used.contains(*name) && !PROXIES.contains(&name.as_str()));
        names.cloned().collect()
    }
}

/// What is known of the platforms of a build, which are one here.
pub(crate) fn of_platforms(name: &str) -> Option<String> {
    let machine = architecture();
    let own = |what: &str| match what {
        "PLATFORM" => Some(format!("linux/{machine}")),
        "OS" => Some("linux".to_owned()),
        "ARCH" => Some(machine.to_owned()),
        "VARIANT" => Some(String::new()),
        _ => None,
    };
    name.strip_prefix("TARGET").or_else(|| name.strip_prefix("BUILD")).and_then(own)
}

/// The arguments that a stage has declared, in their order.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    given: Arc<Given>,
    /// Those before the first stage.
    globals: Arc<Vec<(String, Option<String>)>>,
    declared: Vec<(String, Option<String>)>,
}

impl Scope {
    /// Of the lines before the first stage.
    pub(crate) fn before_stages(
        given: &Arc<Given>,
        declarations: &[(String, Option<String>)],
        escape: char,
    ) -> Result<Self, WordError> {
        let mut scope = Self { given: Arc::clone(given), globals: Arc::default(), declared: Vec::new() };
        for (name, value) in declarations {
            let known = scope.clone();
            let variables = move |name: &str| known.lookup(name).or_else(|| of_platforms(name));
            let value = value.as_deref().map(|value| expand(value, escape, &variables)).transpose()?;
            let value = given.value(name).or(value).or_else(|| of_platforms(name));
            scope.set(name.clone(), value);
        }
        Ok(scope)
    }

    /// Of a stage that has declared nothing yet.
    pub(crate) fn of_stage(&self) -> Self {
        Self {
            given: Arc::clone(&self.given),
            globals: Arc::new(self.declared.clone()),
            declared: Vec::new(),
        }
    }

    fn set(&mut self, name: String, value: Option<String>) {
        self.declared.retain(|(known, _)| *known != name);
        self.declared.push((name, value));
    }

    /// `ARG NAME=value`, the value with its variables put in.
    pub(crate) fn declare(&mut self, name: &str, value: Option<String>) {
        let of_globals = || {
            let found = self.globals.iter().find(|(known, _)| known == name);
            found.and_then(|(_, value)| value.clone())
        };
        let value = self.given.value(name).or(value).or_else(of_globals).or_else(|| of_platforms(name));
        self.set(name.to_owned(), value);
    }

    pub(crate) fn lookup(&self, name: &str) -> Option<String> {
        self.declared.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.clone())
    }

    /// What variables in a stage mean: the environment counts before arguments.
    pub(crate) fn variables<'a>(&'a self, draft: &'a Draft) -> impl Variables + 'a {
        move |name: &str| draft.variable(name).map(str::to_owned).or_else(|| self.lookup(name))
    }

    /// `NAME=value` of those that a command sees and that make it another one, sorted.
    pub(crate) fn of_commands(&self, draft: &Draft) -> Vec<String> {
        let seen = self.declared.iter().filter(|(name, _)| draft.variable(name).is_none());
        let mut seen: Vec<String> =
            seen.filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))).collect();
        seen.sort();
        seen
    }

    /// `NAME=value` of proxies that were given without being declared.
    pub(crate) fn proxies(&self) -> Vec<String> {
        let undeclared =
            PROXIES.iter().filter(|name| !self.declared.iter().any(|(known, _)| known == **name));
        undeclared.filter_map(|name| Some(format!("{name}={}", self.given.value(name)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn arguments_are_known_where_they_are_declared() {
        let given = [("A", Some("given")), ("UNUSED", Some("x")), ("http_proxy", Some("p"))];
        let given = given.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        let given = Arc::new(Given::new(given.into()));
        let declared = [("A", Some("default")), ("B", Some("b$A")), ("C", None)];
        let declared = declared.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        let globals = Scope::before_stages(&given, &declared, '\\').unwrap();
        assert_eq!(globals.lookup("B").unwrap(), "bgiven");
        let mut stage = globals.of_stage();
        assert_eq!(stage.lookup("A"), None, "a stage has to ask for it");
        stage.declare("B", None);
        stage.declare("A", Some("other".to_owned()));
        stage.declare("TARGETARCH", None);
        let mut draft = Draft::default();
        draft.config.env.push("B=environment".to_owned());
        assert_eq!(stage.variables(&draft).value("B").unwrap(), "environment");
        let seen = stage.of_commands(&draft);
        assert_eq!(seen, ["A=given".to_owned(), format!("TARGETARCH={}", architecture())]);
        assert_eq!(stage.proxies(), ["http_proxy=p"]);
        assert_eq!(given.unused(), ["UNUSED"]);
    }
}
