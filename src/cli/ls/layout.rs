//! `ls --format`: a Go template for each host, alone or as the columns of a table.

use serde_json::Value;

use super::item::{self, Item, Times};
use crate::ui::{Failure, aligned, safe};

const DEFAULT: &str = "table {{.Name}}\t{{.Active}}\t{{.DriverName}}\t{{.State}}\t{{.URL}}\t{{.Swarm}}\t{{.DockerVersion}}\t{{.Error}}";

/// How the list is written.
#[derive(Debug)]
pub(super) struct Layout {
    template: gotemplate::Template,
    text: String,
    table: bool,
}

impl Layout {
    pub(super) fn parse(format: Option<&str>) -> Result<Self, Failure> {
        let format = format.unwrap_or(DEFAULT);
        let (table, text) = match format.strip_prefix("table") {
            Some(rest) => (true, rest.trim_start()),
            None => (false, format),
        };
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let template = gotemplate::Parser::standard()
            .missing(gotemplate::MissingField::OfType("HostListItem"))
            .parse(&text)
            .map_err(|error| Failure::because("template parsing error", &error))?;
        Ok(Self { template, text, table })
    }

    pub(super) fn is_table(&self) -> bool {
        self.table
    }

    /// Whether engines have to be asked.
    pub(super) fn shows_versions(&self) -> bool {
        self.text.contains(".DockerVersion")
    }

    pub(super) fn times(&self) -> Times {
        if self.text.contains("%d") { Times::Nanoseconds } else { Times::Text }
    }

    pub(super) fn render(&self, items: &[Item]) -> Result<String, Failure> {
        let line = |fields: &Value| {
            let safe = safe::texts(fields, safe::one_line);
            self.template.render(&safe).map_err(|error| Failure::text(error.to_string()))
        };
        let mut lines = Vec::with_capacity(items.len() + 1);
        if self.table {
            lines.push(line(&item::headers())?);
        }
        for item in items {
            lines.push(line(&item.fields)?);
        }
        if self.table {
            return Ok(aligned(&lines));
        }
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }
}
