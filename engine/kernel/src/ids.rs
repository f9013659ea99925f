//! Numbers of users and groups inside of a container, and what they are outside.

use std::io;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

/// Who has no number inside.
const NOBODY: u32 = 65534;

/// Numbers inside that lead to as many outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// The users and groups of a container. Root is one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    users: Vec<IdRange>,
    groups: Vec<IdRange>,
}

impl IdMap {
    /// Of ranges outside: the first number and how many there are. Inside, they lie one behind the other, from 0 on. Empty lists
    /// have no root, so that there is no answer.
    pub fn of_ranges(users: &[(u32, u32)], groups: &[(u32, u32)]) -> Option<Self> {
        let laid_out = |ranges: &[(u32, u32)]| {
            let mut next = 0_u32;
            let mut laid_out = Vec::new();
            for &(outside, count) in ranges.iter().filter(|(_, count)| *count > 0) {
                laid_out.push(IdRange { inside: next, outside, count });
                next = next.checked_add(count)?;
            }
            (!laid_out.is_empty()).then_some(laid_out)
        };
        Some(Self { users: laid_out(users)?, groups: laid_out(groups)? })
    }

    /// From the kernel's files `uid_map` and `gid_map`; nothing if there is no root.
    pub(crate) fn read(users: &str, groups: &str) -> Option<Self> {
        let parse = |text: &str| -> Option<Vec<IdRange>> {
            let line = |line: &str| {
                let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
                let mut next = || numbers.next().flatten();
                Some(IdRange { inside: next()?, outside: next()?, count: next()? })
            };
            let ranges: Vec<_> = text.lines().map(line).collect::<Option<_>>()?;
            outside(&ranges, 0).map(|_| ranges)
        };
        Some(Self { users: parse(users)?, groups: parse(groups)? })
    }

    pub fn user_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.users, inside)
    }

    pub fn group_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.groups, inside)
    }

    /// What the container sees; somebody without a number of its own is nobody.
    pub fn user_inside(&self, outside: u32) -> u32 {
        inside(&self.users, outside)
    }

    pub fn group_inside(&self, outside: u32) -> u32 {
        inside(&self.groups, outside)
    }

    /// What root and its group are outside.
    pub fn root(&self) -> (u32, u32) {
        (self.user_outside(0).unwrap_or(NOBODY), self.group_outside(0).unwrap_or(NOBODY))
    }

    /// What the kernel takes for users and for groups.
    pub(crate) fn to_files(&self) -> (String, String) {
        let text = |ranges: &[IdRange]| -> String {
            let line = |IdRange { inside, outside, count }: &IdRange| format!("{inside} {outside} {count}\n");
            ranges.iter().map(line).collect()
        };
        (text(&self.users), text(&self.groups))
    }

    /// Has this thread work on files as the container's root, with all the capabilities that it has, until the answer is
    /// dropped. Files of the container can be made by nobody else: the kernel would not know how to write their owners down.
    pub fn act(&self) -> io::Result<Acting> {
        let (user, group) = self.root();
        let sets = rustix::thread::capabilities(None)?;
        let acting = Acting {
            user: set(libc::setfsuid, user)?,
            group: set(libc::setfsgid, group)?,
            thread: PhantomData,
        };
        // Leaving root has taken those for files away.
        rustix::thread::set_capabilities(None, sets)?;
        Ok(acting)
    }
}

/// As long as it is there, its thread works on files as another user; see [`IdMap::act`].
#[derive(Debug)]
pub struct Acting {
    user: u32,
    group: u32,
    thread: PhantomData<*const ()>,
}

impl Drop for Acting {
    fn drop(&mut self) {
        for restored in [set(libc::setfsgid, self.group), set(libc::setfsuid, self.user)] {
            if let Err(error) = restored {
                tracing::error!(%error, "A thread goes on as the wrong user");
            }
        }
    }
}

/// Sets a number that is of this thread alone; answers with the earlier one.
#[expect(unsafe_code, reason = "there is no safe form of setfsuid and setfsgid")]
fn set(call: unsafe extern "C" fn(u32) -> i32, number: u32) -> io::Result<u32> {
    // SAFETY: the calls have no pointers. They do not fail: the second one, which changes nothing, tells what holds.
    let (before, now) = unsafe { (call(number), call(u32::MAX)) };
    if now.cast_unsigned() == number {
        Ok(before.cast_unsigned())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

fn outside(ranges: &[IdRange], number: u32) -> Option<u32> {
    let shifted = |range: &IdRange| {
        let distance = number.checked_sub(range.inside).filter(|distance| *distance < range.count)?;
        range.outside.checked_add(distance)
    };
    ranges.iter().find_map(shifted)
}

fn inside(ranges: &[IdRange], number: u32) -> u32 {
    let shifted = |range: &IdRange| {
        let distance = number.checked_sub(range.outside).filter(|distance| *distance < range.count)?;
        range.inside.checked_add(distance)
    };
    ranges.iter().find_map(shifted).unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_lie_one_behind_the_other() {
        let map = IdMap::of_ranges(&[(100_000, 10), (200_000, 5)], &[(300_000, 10)]).unwrap();
        assert_eq!(map.root(), (100_000, 300_000));
        let outside: Vec<_> = [0, 9, 10, 14, 15].into_iter().map(|user| map.user_outside(user)).collect();
        assert_eq!(outside, [Some(100_000), Some(100_009), Some(200_000), Some(200_004), None]);
        assert_eq!(
            (map.user_inside(200_001), map.user_inside(0), map.group_inside(300_009)),
            (11, NOBODY, 9)
        );
        assert_eq!(map.group_outside(10), None);
        let (users, groups) = map.to_files();
        assert_eq!(users, "0 100000 10\n10 200000 5\n");
        assert_eq!(IdMap::read(&users, &groups), Some(map));
        assert_eq!(IdMap::of_ranges(&[], &[(1, 1)]), None);
        assert_eq!(IdMap::of_ranges(&[(0, u32::MAX), (0, 2)], &[(1, 1)]), None);
    }

    #[test]
    fn what_the_kernel_tells_is_read() {
        let map = IdMap::read("         0     100000      65536\n", "0 5 1\n").unwrap();
        assert_eq!(map.root(), (100_000, 5));
        for (users, groups) in [("", "0 5 1"), ("1 5 1", "0 5 1"), ("0 5", "0 5 1"), ("0 5 x", "0 5 1")] {
            assert_eq!(IdMap::read(users, groups), None, "{users:?} {groups:?}");
        }
    }

    #[test]
    fn a_thread_acts_for_a_while() {
        let map = IdMap::of_ranges(&[(4000, 10)], &[(5000, 10)]).unwrap();
        let owner = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let last = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_whitespace().last().unwrap().parse::<u32>().unwrap()
            };
            (last("Uid:"), last("Gid:"))
        };
        let before = owner();
        let Ok(acting) = map.act() else {
            return skipped::say("root", "another user's number takes privileges");
        };
        assert_eq!(owner(), (4000, 5000));
        drop(acting);
        assert_eq!(owner(), before);
    }
}
