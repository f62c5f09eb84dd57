"""Does measuring importance again and again pay?"""
