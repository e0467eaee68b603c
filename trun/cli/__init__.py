"""The command ``trun``: words in, calls to a service, words out.

Nothing here decides about jobs; a verb asks a service and prints what it said. Imports stay cheap, so that
``trun --help`` answers at once: each verb imports what it needs when it is called.
"""
