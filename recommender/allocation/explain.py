def explain_shortfalls(*a):
    return ()


def explain_binding(*a):
    return ()
