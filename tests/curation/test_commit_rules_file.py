"""A rules file changes what it says and nothing else; what it cannot mean is refused by name."""

import pytest

from megatron_ft.curation.commit_rules import RULES, TOKEN_LENGTH
from megatron_ft.curation.commit_rules_file import load, to_toml
from megatron_ft.curation.filter_commits import judge
from megatron_ft.data.rows import Row
from megatron_ft.errors import ConfigError
from tests.curation.small_rows import commit

REFUSED = {
    "off = ['utl']": r"off: utl: there is no rule of that name; did you mean url\?",
    "off = 'url'": r'off: is "url" where a list of rules is needed',
    "of = ['url']": r"rules.toml:of: there is no part of that name; did you mean off\?",
    "[rules.subject_lenght]": r"rules.subject_lenght: there is no rule of that name; did you mean subject_length\?",
    "[rules.url]\nmin_words = 3": r"rules.url.min_words: there is no parameter of that name; there are pattern",
    "[rules]\nurl = false": r"rules.url: is false where a table is needed",
    "[rules.subject_length]\nmin_words = '4'": r'rules.subject_length.min_words: is "4" where a value like 5 is needed',
    "[rules.subject_length]\nmin_words = 2000": r"min_words is 2000 and max_words is 999, so nothing would stay",
    "[rules.version_bump]\nkeep_share = 10": r"keep_share: is 10; a share is from 0 to 1",
    "[rules.url]\npattern = '('": r"rules.url.pattern: \"\(\" is no regular expression: missing \)",
    "[[add]]\ndrop = 'x'": r"add 1: has the name null; give it one of letters",
    "[[add]]\nname = 'url'\ndrop = 'x'": r"add 1: there is a rule 'url' already",
    "[[add]]\nname = 'a'": r"add 1 \(a\): has nothing to do; give it one of drop, keep and strip",
    "[[add]]\nname = 'a'\ndrop = 'x'\nkeep = 'y'": r"has drop, keep; give it one of",
    "[[add]]\nname = 'a'\nmatch = 'x'": r"match: there is no key of that name",
    "[[add]]\nname = 'a'\nstrip = 'x*'": r"'x\*' matches nothing at all too",
    "[[add]]\nname = 'a'\nstrip = 'x'\nfield = 'lang'": r'field is "lang"; only the subject can be edited',
    "[[add]]\nname = 'a'\nmin_words = 1.5": r"min_words is 1.5 where a whole number is needed",
    "off = [": r"rules.toml: is no TOML: ",
}


def rules_of(tmp_path, text):
    (tmp_path / "rules.toml").write_text(text)
    return load(tmp_path / "rules.toml")


@pytest.mark.parametrize("text", REFUSED)
def test_a_mistake_is_named(tmp_path, text):
    with pytest.raises(ConfigError, match=REFUSED[text]):
        rules_of(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="--rules: there is no file .*gone.toml; --list-rules writes one"):
        load(tmp_path / "gone.toml")


def test_without_a_file_the_rules_are_the_published_ones():
    assert load(None) == RULES


def test_the_list_of_rules_is_a_file_that_gives_them_again(tmp_path):
    assert rules_of(tmp_path, to_toml(RULES)) == RULES
    changed = rules_of(tmp_path, "off = ['url']\n[rules.subject_length]\nmin_words = 4\n")
    assert rules_of(tmp_path, to_toml(changed)) == changed


def test_rules_are_switched_off_changed_and_added(tmp_path):
    rules = rules_of(tmp_path, """
        off = ["not_capitalised"]
        [rules.subject_length]
        min_words = 3
        [rules.not_imperative]
        third_person = true
        [[add]]
        name = "jira"
        drop = 'CDPCP-\\d+'
        [[add]]
        name = "licences"
        field = "license"
        keep = "^(mit|apache)"
        [[add]]
        name = "strip_full_stop"
        strip = '\\.$'
        [[add]]
        name = "small"
        field = "new_contents"
        max_characters = 500
        """)
    names = [rule.name for rule in rules]
    assert names.index("strip_full_stop") == names.index("strip_closing") + 1 and names[-1] == TOKEN_LENGTH

    def verdict(**changes):
        return judge(Row("f:1", commit(**changes), None), rules)

    assert verdict(subject="fixes the parser", license="mit").dropped_by is None
    assert verdict(subject="Fix parser.").dropped_by == "subject_length"
    assert verdict(subject="Fix the parser.", license="MIT").commit["subject"] == "Fix the parser"
    assert verdict(subject="Fix the cdpcp-7 parser", license="MIT").dropped_by == "jira"
    assert verdict(license="gpl-3.0").dropped_by == "licences"
    assert verdict(license="mit", new_contents="x" * 501).dropped_by == "small"
    assert verdict().unclear_to == ["licences"]
