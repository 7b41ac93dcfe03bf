"""Runs the unit tests in a directory and prints a line for each: its name, a tab, and what it ended with.

Arguments: the directory of the tests, and the directory from which they are imported.
"""

import faulthandler
import re
import sys
import traceback
import unittest


class Lines(unittest.TestResult):
    """Prints each test's result as it ends: in a crash, the tests before it are not lost."""

    def say(self, test, *words):
        text = " ".join(str(word) for word in words)
        # Addresses, shortened ones too, and lists of random bytes are no result.
        text = re.sub(r"0x(?!0000)[0-9a-f]{5,}(\[\d+ chars\][0-9a-f]*)?", "ADDRESS", text)
        text = re.sub(r"(\d+, ){8,}\d+", "BYTES", text)
        print(test.id(), " ".join(text.split()), sep="\t", flush=True)

    def say_error(self, test, kind, error):
        self.say(test, kind, *traceback.format_exception_only(error[0], error[1]))
        traceback.print_exception(*error)

    def addSuccess(self, test):
        self.say(test, "ok")

    def addError(self, test, error):
        self.say_error(test, "error", error)

    def addFailure(self, test, error):
        self.say_error(test, "failure", error)

    def addSkip(self, test, reason):
        self.say(test, "skipped:", reason)

    def addExpectedFailure(self, test, error):
        self.say_error(test, "expected failure", error)

    def addUnexpectedSuccess(self, test):
        self.say(test, "unexpected success")

    def addSubTest(self, test, subtest, error):
        if error is None:
            self.say(subtest, "ok")
        else:
            self.say_error(subtest, "error", error)


faulthandler.enable()
unittest.TestLoader().discover(sys.argv[1], top_level_dir=sys.argv[2]).run(Lines())
