//! Hostile Dockerfiles, ignore files, patterns and changes.

use engine_model::wire::ImageConfig;

use super::config::change;
use super::dockerfile::Dockerfile;
use super::glob::{Pattern, fits_anything};
use super::ignore::Ignored;
use super::words::{expand, expand_words, raw_words, unquoted};

#[test]
fn dockerfiles() {
    let corpus: [&[u8]; 5] = [
        b"# syntax=docker/dockerfile:1\n# escape=`\nARG V=1\nFROM --platform=$BUILDPLATFORM base:${V:-2} AS one\nRUN <<EOF 3<<-'X' sh `\n  -c\na\nEOF\n\tb\n\tX\n",
        b"FROM a\nRUN --mount=type=cache,target=/x,sharing=locked,uid=1,mode=0700 --network=none [\"a\", \"b\"]\nCOPY --from=0 --chown=a:b --exclude=*.x a b /c/\n",
        b"FROM a\nADD --checksum=sha256:00 https://example.test/x /y\nENV A=b C=\"d e\" F\\ G=h\nLABEL a b c\nONBUILD COPY . .\n",
        b"FROM scratch\nHEALTHCHECK --interval=1m30s --retries=3 CMD [\"x\"]\nSHELL [\"a\"]\nEXPOSE 1-2/udp $P\nSTOPSIGNAL 9\nUSER x\nWORKDIR y\n",
        b"FROM a\nCOPY <<EOF <<\"F\" /x/\n$A\nEOF\nb\nF\nARG A B=c\nVOLUME [\"/a\"] \nMAINTAINER x\nENTRYPOINT a\nCMD b\n",
    ];
    fuzz::run("dockerfiles", &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(dockerfile) = Dockerfile::parse(text) else { return };
        for (number, stage) in dockerfile.stages.iter().enumerate() {
            let needed = dockerfile.needs(number, &stage.base, &[], &|_| false);
            // What comes later is never needed, so that there is no circle.
            assert!(needed.iter().all(|&needed| needed < number));
        }
    });
}

#[test]
fn words() {
    let corpus: [&[u8]; 4] = [
        b"${A:-${B:+$C}} \"$A \\\" x\" 'y' \\z",
        b"${A##*/} ${A%%.*} ${A//x?/y} ${A/[a-c]/$B}",
        b"${A:?message} ${A+${B-c}}",
        b"<<EOF 3<<-\"x y\" $1 $@ $$",
    ];
    let variables = |name: &str| match name {
        "A" => Some("/usr/lib/xaxbxc.tar.gz".to_owned()),
        "B" => Some(String::new()),
        _ => None,
    };
    fuzz::run("words", &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        for escape in ['\\', '`'] {
            let _ = expand(text, escape, &variables);
            let _ = expand_words(text, escape, &variables);
            let _ = unquoted(text, escape);
            let _ = raw_words(text, escape);
        }
    });
}

#[test]
fn ignore_files() {
    let corpus: [&[u8]; 3] = [
        b"# x\n*.md\n!README.md\n**/node_modules\n/a/../b\n",
        b"a/**/b\n[a-z]?\\*\n**\n!**/x/**\n",
        b"\xef\xbb\xbf*\n!src\n",
    ];
    fuzz::run("ignore_files", &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(ignored) = Ignored::parse(text) {
            let _ = (ignored.fits("a/b/c.md"), ignored.fits("README.md"), ignored.may_return());
        }
        if let Ok(pattern) = Pattern::of_names(text) {
            let _ = pattern.fits(text);
        }
        let _ = fits_anything(text, "a/b.c");
    });
}

#[test]
fn changes() {
    let corpus: [&[u8]; 3] =
        [b"ENV A=b C=$A", b"EXPOSE 80 90-99/udp", b"HEALTHCHECK --timeout=3s CMD [\"a\", \"b\"]"];
    fuzz::run("changes", &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let _ = change(&mut ImageConfig::default(), &[text.to_owned()]);
    });
}
