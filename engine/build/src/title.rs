//! How steps are called where they are watched: `[builder 2/3] RUN make`, as BuildKit counts.

use super::dockerfile::Stage;
use super::instruction::Instruction;
use super::plan::Plan;

/// Whether a step makes files, so that it is counted.
pub(crate) fn counts(instruction: &Instruction) -> bool {
    matches!(instruction, Instruction::Run(_) | Instruction::Copy(_) | Instruction::Workdir(_))
}

impl Plan {
    /// Whether a stage begins with an image, which is counted as well.
    fn begins_with_image(&self, stage: usize) -> bool {
        let base = &self.bases[stage];
        base != "scratch" && self.dockerfile.named_stage(base, stage).is_none()
    }

    fn counted(&self, stage: usize) -> usize {
        let steps = &self.dockerfile.stages[stage].steps;
        let counted = steps.iter().filter(|step| counts(&step.instruction)).count();
        counted + usize::from(self.begins_with_image(stage))
    }

    /// The title of a stage's beginning, if that is an image: `name` is that image's whole name.
    pub(crate) fn title_of_base(&self, stage: usize, name: &str) -> Option<String> {
        let all = self.counted(stage);
        self.begins_with_image(stage).then(|| format!("{} FROM {name}", self.number(stage, 1, all)))
    }

    /// The title of a step, if it is counted.
    pub(crate) fn title(&self, stage: usize, index: usize) -> Option<String> {
        let steps = &self.dockerfile.stages[stage].steps;
        let step = steps.get(index).filter(|step| counts(&step.instruction))?;
        let before = steps[..index].iter().filter(|step| counts(&step.instruction)).count();
        let number = before + 1 + usize::from(self.begins_with_image(stage));
        Some(format!("{} {}", self.number(stage, number, self.counted(stage)), step.text))
    }

    fn number(&self, stage: usize, number: usize, all: usize) -> String {
        let width = all.to_string().len();
        let name = match (&self.dockerfile.stages[..], &self.dockerfile.stages[stage]) {
            ([_], _) => String::new(),
            (_, Stage { name: Some(name), .. }) => format!("{name} "),
            _ => format!("stage-{stage} "),
        };
        format!("[{name}{number:>width$}/{all}]")
    }
}
