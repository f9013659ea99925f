//! Which stages there are to build, by what they and the triggers of their bases name.

use std::collections::BTreeSet;

use engine_model::{Failure, Kind};

use super::instruction::Instruction;
use super::plan::{Named, Plan};
use super::triggers::Triggers;

impl Plan {
    /// Finds out what there is to do, given what images want done: `None` for one that is not here.
    pub(crate) fn find_out(&mut self, triggers: &dyn Fn(&str) -> Option<Vec<String>>) -> Result<(), Failure> {
        self.triggers = vec![Triggers::default(); self.dockerfile.stages.len()];
        self.needed = BTreeSet::new();
        let mut wanted = vec![self.target];
        while let Some(stage) = wanted.pop() {
            if !self.needed.insert(stage) {
                continue;
            }
            self.triggers[stage] = self.triggers_of(stage, triggers);
            let is_named = |name: &str| self.is_named(name);
            let (base, triggers) = (&self.bases[stage], &self.triggers[stage].known);
            wanted.extend(self.dockerfile.needs(stage, base, triggers, &is_named));
        }
        for &stage in &self.needed {
            if self.bases[stage].is_empty() {
                let stage = &self.dockerfile.stages[stage];
                let message = format!(
                    "dockerfile parse error on line {}: base name ({}) should not be blank",
                    stage.line, stage.base
                );
                return Err(Failure::new(Kind::Invalid, message));
            }
        }
        Ok(())
    }

    fn triggers_of(&self, stage: usize, of_image: &dyn Fn(&str) -> Option<Vec<String>>) -> Triggers {
        let base = self.bases[stage].as_str();
        let image = match self.meaning(base) {
            Some((_, Named::Folder)) => return Triggers::default(),
            Some((_, Named::Image(image))) => image,
            None => {
                if let Some(base) = self.dockerfile.named_stage(base, stage) {
                    let steps = self.dockerfile.stages[base].steps.iter();
                    return Triggers::of(steps.filter_map(|step| match &step.instruction {
                        Instruction::Onbuild(trigger) => Some(trigger),
                        _ => None,
                    }));
                }
                if matches!(base, "scratch" | "") {
                    return Triggers::default();
                }
                base
            }
        };
        let found = of_image(image);
        let may_be_others = self.request.pull || found.is_none();
        Triggers { may_be_others, ..Triggers::of(found.unwrap_or_default().iter()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::plan::{Context, Request, Texts, Wanted};
    use super::*;

    /// A plan, with an image `x` that has these triggers and an image `plain` that has none.
    fn plan(dockerfile: &str, triggers: &[&str], request: Request) -> Plan {
        let folder = tempfile::tempdir().unwrap();
        let texts = Texts { dockerfile: dockerfile.to_owned(), ..Texts::default() };
        let mut plan = Plan::draft(Context::empty(folder.path()).unwrap(), texts, request).unwrap();
        plan.find_out(&|image| match image {
            "x" => Some(triggers.iter().map(|&text| text.to_owned()).collect()),
            "plain" => Some(Vec::new()),
            _ => None,
        })
        .unwrap();
        plan
    }

    fn with(name: &str, named: Named) -> Request {
        Request { contexts: [(name.to_owned(), named)].into(), ..Request::default() }
    }

    #[test]
    fn stages_that_triggers_name_are_planned() {
        let text = "FROM plain AS a\nFROM plain AS b\nFROM plain AS c\nFROM x\n";
        let needed = |triggers: &[&str]| plan(text, triggers, Request::default()).needed;
        assert_eq!(needed(&[]), [3].into());
        assert_eq!(needed(&["COPY --from=b /y /y", "RUN --mount=from=0,target=/x true"]), [0, 1, 3].into());
        let text = "FROM plain AS b\nFROM plain AS a\nONBUILD COPY --from=b /y /y\nFROM a\n";
        assert_eq!(plan(text, &[], Request::default()).needed, [0, 1, 2].into());
    }

    #[test]
    fn the_context_is_wanted_for_triggers() {
        let wanted = |text: &str, triggers: &[&str], request| plan(text, triggers, request).wanted();
        let trigger = ["COPY . /app"];
        assert_eq!(wanted("FROM x", &[], Request::default()), Wanted::Nothing);
        assert_eq!(wanted("FROM x", &trigger, Request::default()), Wanted::All);
        assert_eq!(wanted("FROM absent", &[], Request::default()), Wanted::All);
        let base = |name: &str| with("base", Named::Image(name.to_owned()));
        assert_eq!(wanted("FROM base", &trigger, base("x")), Wanted::All);
        assert_eq!(wanted("FROM base", &trigger, base("plain")), Wanted::Nothing);
        assert_eq!(wanted("FROM base", &trigger, base("absent")), Wanted::All);
        assert_eq!(wanted("FROM base", &[], with("base", Named::Folder)), Wanted::Nothing);
        let pull = Request { pull: true, ..Request::default() };
        assert_eq!(wanted("FROM plain", &[], pull.clone()), Wanted::All);
        assert_eq!(wanted("FROM scratch", &[], pull), Wanted::Nothing);
        let text = "FROM plain AS a\nONBUILD COPY . /app\nFROM a\n";
        assert_eq!(wanted(text, &[], Request::default()), Wanted::All);
        // Nothing is made of it.
        assert_eq!(wanted("FROM plain\nONBUILD COPY . /app\n", &[], Request::default()), Wanted::Nothing);
    }

    #[test]
    fn folders_are_wanted_for_triggers() {
        let request = with("more", Named::Folder);
        assert!(plan("FROM x", &[], request.clone()).folders_wanted().is_empty());
        assert_eq!(plan("FROM x", &["COPY --from=more / /"], request).folders_wanted(), ["more"]);
    }

    #[test]
    fn names_are_compared_in_their_familiar_form() {
        let is_named = |context: &str, name: &str| {
            let request = with(context, Named::Folder);
            plan("FROM scratch", &[], request).is_named(name)
        };
        for (context, name) in [
            ("alpine", "alpine:latest"),
            ("alpine:latest", "alpine"),
            ("alpine", "docker.io/library/Alpine"),
            ("docker.io/a/b", "a/b:latest"),
            ("alpine:3", "library/alpine:3"),
        ] {
            assert!(is_named(context, name), "{context} {name}");
        }
        for (context, name) in [("alpine", "alpine:3"), ("alpine", "a/alpine"), ("b", "library/a/b")] {
            assert!(!is_named(context, name), "{context} {name}");
        }
        let text = "FROM alpine\nRUN --mount=from=other:latest,target=/x true\n";
        let request = with("alpine:latest", Named::Folder);
        assert_eq!(plan(text, &[], request).folders_wanted(), ["alpine:latest"]);
        assert_eq!(plan(text, &[], with("other", Named::Folder)).folders_wanted(), ["other"]);
    }
}
