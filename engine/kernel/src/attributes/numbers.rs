//! Numbers of users and groups that stand in attributes: in access lists, and beside capabilities.

use crate::ids::IdMap;

/// The second version of capabilities, which are of whoever is root where the file is; the third says who that is.
const SECOND: u32 = 0x0200_0000;
const THIRD: u32 = 0x0300_0000;
const VERSIONS: u32 = 0xff00_0000;
const SECOND_LENGTH: usize = 20;

/// An attribute as the host has it, of which the container has this.
pub fn outside(name: &str, value: &[u8], ids: &IdMap) -> Vec<u8> {
    if name == "security.capability" {
        let (root, _) = ids.root();
        return match (version(value), value.len()) {
            (Some(SECOND), SECOND_LENGTH) => with_root(value, root),
            (Some(THIRD), _) => match word(value, SECOND_LENGTH).and_then(|user| ids.user_outside(user)) {
                Some(user) => with_root(&value[..SECOND_LENGTH], user),
                None => value.to_vec(),
            },
            _ => value.to_vec(),
        };
    }
    // The kernel refuses whom it does not know.
    let nobody = u32::MAX;
    in_list(
        name,
        value,
        |user| ids.user_outside(user).unwrap_or(nobody),
        |group| ids.group_outside(group).unwrap_or(nobody),
    )
}

/// An attribute as the container has it, of which the host has this.
pub fn inside(name: &str, value: &[u8], ids: &IdMap) -> Vec<u8> {
    if name == "security.capability" {
        return match (version(value), word(value, SECOND_LENGTH)) {
            (Some(THIRD), Some(user)) if user == ids.root().0 => {
                let mut second = value[..SECOND_LENGTH].to_vec();
                let flags = word(value, 0).unwrap_or_default() & !VERSIONS;
                second[..4].copy_from_slice(&(flags | SECOND).to_le_bytes());
                second
            }
            (Some(THIRD), Some(user)) => with_root(&value[..SECOND_LENGTH], ids.user_inside(user)),
            _ => value.to_vec(),
        };
    }
    in_list(name, value, |user| ids.user_inside(user), |group| ids.group_inside(group))
}

fn word(value: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?))
}

fn version(capabilities: &[u8]) -> Option<u32> {
    word(capabilities, 0).map(|word| word & VERSIONS)
}

fn with_root(capabilities: &[u8], root: u32) -> Vec<u8> {
    let flags = word(capabilities, 0).unwrap_or_default() & !VERSIONS;
    let mut third = capabilities.to_vec();
    third[..4].copy_from_slice(&(flags | THIRD).to_le_bytes());
    third.extend_from_slice(&root.to_le_bytes());
    third
}

/// An access list is a version and entries: a kind and what it may do, of two bytes each, and a number.
fn in_list(name: &str, value: &[u8], user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) -> Vec<u8> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let mut value = value.to_vec();
    if !name.starts_with("system.posix_acl_") {
        return value;
    }
    for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        let number = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let changed = match u16::from_le_bytes([entry[0], entry[1]]) {
            USER => user(number),
            GROUP => group(number),
            _ => continue,
        };
        entry[4..].copy_from_slice(&changed.to_le_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ids() -> IdMap {
        IdMap::of_ranges(&[(100_000, 10)], &[(200_000, 10)]).unwrap()
    }

    #[test]
    fn capabilities_are_of_who_is_root() {
        let mut second = (SECOND | 1).to_le_bytes().to_vec();
        second.extend([7; 16]);
        let third = outside("security.capability", &second, &ids());
        assert_eq!((third.len(), word(&third, 0), word(&third, 20)), (24, Some(THIRD | 1), Some(100_000)));
        assert_eq!(inside("security.capability", &third, &ids()), second);
        let of_another = with_root(&second, 3);
        let there = outside("security.capability", &of_another, &ids());
        assert_eq!(word(&there, 20), Some(100_003));
        assert_eq!(inside("security.capability", &there, &ids()), of_another);
        for odd in [&[][..], &[1, 2, 3], &[0; 20], &THIRD.to_le_bytes()] {
            assert_eq!(outside("security.capability", odd, &ids()), odd);
            assert_eq!(inside("security.capability", odd, &ids()), odd);
        }
    }

    #[test]
    fn access_lists_name_others_on_the_host() {
        let list = |user: u32, group: u32| {
            let mut list = 2_u32.to_le_bytes().to_vec();
            for (kind, number) in [(0x01_u16, u32::MAX), (0x02, user), (0x08, group), (0x20, u32::MAX)] {
                list.extend(kind.to_le_bytes());
                list.extend(6_u16.to_le_bytes());
                list.extend(number.to_le_bytes());
            }
            list
        };
        let there = outside("system.posix_acl_access", &list(5, 6), &ids());
        assert_eq!(there, list(100_005, 200_006));
        assert_eq!(inside("system.posix_acl_access", &there, &ids()), list(5, 6));
        assert_eq!(outside("system.posix_acl_default", &list(70, 6), &ids()), list(u32::MAX, 200_006));
        assert_eq!(outside("user.text", b"0123456789", &ids()), b"0123456789");
        assert_eq!(outside("system.posix_acl_access", b"01", &ids()), b"01");
    }
}
