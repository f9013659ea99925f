//! What needs no host: the driver's words about itself, and its configuration.

use std::collections::{BTreeMap, BTreeSet};

use super::{Report, Suite, Violation, chain, violated};
use crate::{ErrorKind, Flag, Options};

const NAMES: &str = "The driver's words are lower-case words joined by dashes";
const FLAGS: &str = "Options are unique, begin with the driver's name, have a help text and good defaults";
const CONFIGURE: &str = "`configure` takes good options and gives the same answer twice";
const REFUSE: &str = "`configure` refuses what can never work, as invalid";

impl Suite<'_> {
    pub(super) async fn words(&self, report: &mut Report) -> Result<(), Violation> {
        let info = self.driver.info();
        for word in [&info.name].into_iter().chain(&info.aliases) {
            if !is_word(word) {
                return violated(NAMES, format!("`{word}`"));
            }
        }
        if info.summary.is_empty() || info.summary.ends_with('.') {
            return violated(NAMES, format!("summary `{}`", info.summary));
        }
        report.kept.push(NAMES);

        let flags = self.driver.flags();
        let mut names = BTreeSet::new();
        for flag in &flags {
            self.flag(&info.name, flag)?;
            for name in std::iter::once(&flag.name).chain(&flag.aliases) {
                if !names.insert(name) {
                    return violated(FLAGS, format!("`--{name}` is there twice"));
                }
            }
            if let Some(variable) = &flag.environment
                && !names.insert(variable)
            {
                return violated(FLAGS, format!("`{variable}` is there twice"));
            }
        }
        if let Err(error) = Options::resolve(&flags, &BTreeMap::new()) {
            return violated(FLAGS, format!("a default is no good: {error}"));
        }
        if let Some(name) = self.options.keys().find(|name| !flags.iter().any(|flag| flag.name == **name)) {
            return violated(FLAGS, format!("the suite was given `--{name}`, which there is not"));
        }
        report.kept.push(FLAGS);

        let options = match Options::resolve(&flags, &self.options) {
            Ok(options) => options,
            Err(error) => return violated(CONFIGURE, error.to_string()),
        };
        match (self.driver.configure(&options).await, self.driver.configure(&options).await) {
            (Ok(first), Ok(second)) if first == second => {}
            (Ok(first), Ok(second)) => return violated(CONFIGURE, format!("{first} and then {second}")),
            (Err(error), _) | (_, Err(error)) => return violated(CONFIGURE, chain(&error)),
        }
        report.kept.push(CONFIGURE);

        for bad in &self.refused {
            let Ok(options) = Options::resolve(&flags, bad) else { continue };
            match self.driver.configure(&options).await {
                Ok(config) => return violated(REFUSE, format!("{bad:?} was taken as {config}")),
                Err(error) if *error.kind() != ErrorKind::Invalid => {
                    return violated(REFUSE, format!("{:?}: {}", error.kind(), chain(&error)));
                }
                Err(_) => {}
            }
        }
        report.kept.push(REFUSE);
        Ok(())
    }

    fn flag(&self, driver: &str, flag: &Flag) -> Result<(), Violation> {
        let prefixed = flag.name.strip_prefix(driver).is_some_and(|rest| rest.starts_with('-'));
        if !is_word(&flag.name) || flag.aliases.iter().any(|alias| !is_word(alias)) {
            return violated(FLAGS, format!("`--{}`", flag.name));
        }
        if !prefixed && !self.unprefixed.contains(&flag.name.as_str()) {
            return violated(FLAGS, format!("`--{}` does not begin with `{driver}-`", flag.name));
        }
        if flag.help.is_empty() || flag.help.ends_with('.') || flag.help.starts_with(char::is_lowercase) {
            return violated(FLAGS, format!("help of `--{}`: `{}`", flag.name, flag.help));
        }
        let upper =
            |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        match &flag.environment {
            Some(variable) if !upper(variable) => violated(FLAGS, format!("`{variable}`")),
            _ => Ok(()),
        }
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
