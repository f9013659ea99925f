//! A Dockerfile as stages, and which of them a target needs.

use std::collections::BTreeSet;

use super::flags::MountKind;
use super::instruction::{Instruction, Step, understand};
use super::source::{self, ParseError};

const MOST_STAGES: usize = 1000;

/// A Dockerfile that has been understood, but for its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    pub(crate) escape: char,
    /// `ARG` before the first `FROM`: for `FROM` alone.
    pub(crate) globals: Vec<Step>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) line: usize,
    /// The whole line.
    pub(crate) text: String,
    pub(crate) base: String,
    pub(crate) name: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) steps: Vec<Step>,
}

impl Dockerfile {
    /// Takes a text apart and understands each instruction.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let source = source::read(text)?;
        let mut dockerfile = Self {
            escape: source.escape,
            globals: Vec::new(),
            stages: Vec::new(),
            warnings: source.warnings,
        };
        for raw in &source.instructions {
            let step = understand(raw, source.escape)?;
            match (step.instruction, dockerfile.stages.last_mut()) {
                (Instruction::From(from), _) => {
                    if dockerfile.stages.len() == MOST_STAGES {
                        return Err(ParseError::new(
                            step.line,
                            format!("there are more than {MOST_STAGES} stages"),
                        ));
                    }
                    dockerfile.stages.push(Stage {
                        line: step.line,
                        text: step.text,
                        base: from.base,
                        name: from.name,
                        platform: from.platform,
                        steps: Vec::new(),
                    });
                }
                (instruction, Some(stage)) => stage.steps.push(Step { instruction, ..step }),
                (instruction @ Instruction::Arg(_), None) => {
                    dockerfile.globals.push(Step { instruction, ..step });
                }
                (_, None) => return Err(ParseError::new(step.line, "no build stage in current context")),
            }
        }
        if dockerfile.stages.is_empty() {
            return Err(ParseError::new(1, "no build stage in current context"));
        }
        Ok(dockerfile)
    }

    /// Adds labels that a client wants, as the last step of the stage that is to be built.
    pub(crate) fn add_labels(&mut self, stage: usize, labels: &[(String, String)]) {
        if labels.is_empty() {
            return;
        }
        let quoted = |text: &str| {
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$"))
        };
        let shown: Vec<_> =
            labels.iter().map(|(name, value)| format!("{}={}", quoted(name), quoted(value))).collect();
        // Quoted by single quotes there is nothing in them that means anything.
        let plain = |text: &str| format!("'{}'", text.replace('\'', "'\"'\"'"));
        let pairs = labels.iter().map(|(name, value)| (plain(name), plain(value))).collect();
        if let Some(stage) = self.stages.get_mut(stage) {
            stage.steps.push(Step {
                line: stage.line,
                last_line: stage.line,
                text: format!("LABEL {}", shown.join(" ")),
                instruction: Instruction::Label(pairs),
            });
        }
    }

    /// The stage that a name or number means, of those before `before`.
    pub(crate) fn stage(&self, name: &str, before: usize) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        let named = self.stages[..before.min(self.stages.len())]
            .iter()
            .rposition(|stage| stage.name.as_ref() == Some(&name));
        named.or_else(|| name.parse().ok().filter(|&number| number < before && number < self.stages.len()))
    }

    /// The stage to build: the one of this name or number, or the last one.
    pub(crate) fn target(&self, target: &str) -> Option<usize> {
        if target.is_empty() {
            return self.stages.len().checked_sub(1);
        }
        self.stage(target, self.stages.len())
    }

    /// The stages that a stage takes something from, with its base as `base` says it, variables put in, and the triggers of
    /// that.
    /// What `is_elsewhere` says is no stage, whatever a stage is called.
    pub(crate) fn needs(
        &self,
        stage: usize,
        base: &str,
        triggers: &[Instruction],
        is_elsewhere: &dyn Fn(&str) -> bool,
    ) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        if !is_elsewhere(base) {
            needed.extend(self.named_stage(base, stage));
        }
        let own = |from: &&str| !is_elsewhere(from);
        let steps = self.stages[stage].steps.iter().map(|step| &step.instruction);
        for instruction in triggers.iter().chain(steps) {
            match instruction {
                Instruction::Copy(copy) => {
                    needed.extend(copy.from.as_deref().filter(own).and_then(|from| self.stage(from, stage)));
                }
                Instruction::Run(run) => {
                    let mounts = run
                        .mounts
                        .iter()
                        .filter(|mount| matches!(mount.kind, MountKind::Bind | MountKind::Cache));
                    let from = mounts.filter_map(|mount| mount.from.as_deref()).filter(own);
                    needed.extend(from.filter_map(|from| self.stage(from, stage)));
                }
                _ => {}
            }
        }
        needed
    }

    /// The stage of this name; numbers are no names, and `FROM` knows names alone.
    pub(crate) fn named_stage(&self, name: &str, before: usize) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        self.stages[..before].iter().rposition(|stage| stage.name.as_ref() == Some(&name))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn stages_need_only_what_they_take_something_from() {
        let text = "ARG V=1\nFROM a AS one\nFROM b AS two\nFROM c AS three\nCOPY --from=one x y\n\
                    RUN --mount=from=1,target=/x true\nFROM three\nCOPY --from=elsewhere/image x y\n";
        let dockerfile = Dockerfile::parse(text).unwrap();
        assert_eq!((dockerfile.globals.len(), dockerfile.stages.len()), (1, 4));
        let needs = |stage: usize| dockerfile.needs(stage, &dockerfile.stages[stage].base, &[], &|_| false);
        assert_eq!(needs(2), BTreeSet::from([0, 1]));
        assert_eq!(needs(3), BTreeSet::from([2]));
        assert!(needs(0).is_empty());
        assert_eq!(dockerfile.target("TWO"), Some(1));
        assert_eq!(
            (dockerfile.target("3"), dockerfile.target("4"), dockerfile.target("")),
            (Some(3), None, Some(3))
        );
        // A stage knows those before it alone.
        assert_eq!(dockerfile.stage("three", 2), None);
    }

    #[test]
    fn nothing_comes_before_the_first_stage() {
        let error = Dockerfile::parse("# x\n\nRUN true\nFROM x").unwrap_err();
        assert_eq!(error.to_string(), "dockerfile parse error on line 3: no build stage in current context");
        let error = Dockerfile::parse("FROM x\nRUN true\n\nBANANA").unwrap_err();
        assert_eq!(error.to_string(), "dockerfile parse error on line 4: unknown instruction: BANANA");
    }
}
