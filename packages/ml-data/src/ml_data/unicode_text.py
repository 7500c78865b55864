"""Texts that are no Unicode: JSON and command lines can bring them."""


def is_unicode(text: str) -> bool:
    """Whether `text` has a UTF-8 form, as texts with lone surrogates have none.

    JSON escapes give such texts, and Python keeps bytes of a command line that are not UTF-8 so.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
