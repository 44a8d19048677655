"""The one loop, and the bookkeeping no attack has to do: models are callables here."""
